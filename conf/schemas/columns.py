"""Columns that depend on the settings: feature fields, as text and as ids, and masks."""

from conf.fields import Field, Registry
from conf.schemas.table import Column, Shape, masked_views

CONTENT_VECTOR = Column("content_vector", "array<float32>", "column source.items.vector of the source, of any length", nullable=True)
ITEM_USERS = Column(
    "item_users", "array<int32>", "user_idx of the item's last train clicks before this one, oldest first, 0 PAD at the end; length N"
)


def mask_type(num_bits: int) -> str:
    """The narrowest signed integer that holds `num_bits` mask bits; raises ValueError above 63."""
    for bits, name in ((7, "int8"), (15, "int16"), (31, "int32"), (63, "int64")):
        if num_bits <= bits:
            return name
    raise ValueError(f"{num_bits} fields or positions do not fit a 64-bit mask; at most 63")


def mask_columns(registry: Registry, shape: Shape) -> tuple[Column, ...]:
    """um_<v><e>, uh_<v><e>, vm_<v><e> for each draw e and masked view v: user fields, history positions, item fields."""
    kinds = (
        ("um", len(registry.user), "user field f is masked"),
        ("uh", shape.history, "history position f is dropped"),
        ("vm", len(registry.item), "item field f is masked"),
    )
    return tuple(
        Column(f"{prefix}_{view}{draw}", mask_type(bits), f"view {view}, draw {draw}: bit f set = {meaning}")
        for draw in range(shape.mask_draws)
        for view in masked_views(shape.strategy)
        for prefix, bits, meaning in kinds
    )


def _raw(field: Field) -> Column:
    if field.role == "multi":
        return Column(field.name, "array<string>", f"multi-valued {field.side} field; [] = missing")
    return Column(field.name, "string", f"{field.role} {field.side} field", nullable=True)


def _encoded(field: Field) -> Column:
    if field.role == "multi":
        return Column(field.name, "array<int32>", f"ids in vocab_{field.name}, in the source's order; [] = missing")
    return Column(field.name, "int32", f"id in vocab_{field.name}; 2 OOV = missing or rare")


def user_raw(registry: Registry, _: Shape) -> tuple[Column, ...]:
    """Of `users`: every user field of the source, as text."""
    return tuple(_raw(field) for field in registry.source_fields("user"))


def item_raw(registry: Registry, shape: Shape) -> tuple[Column, ...]:
    """Of `items`: every item field of the source, as text, and the content vector where the source gives one."""
    return tuple(_raw(field) for field in registry.source_fields("item")) + (CONTENT_VECTOR,) * shape.vectors


def user_encoded(registry: Registry, _: Shape) -> tuple[Column, ...]:
    """Of `user_feat`: every embedded user field, as vocabulary ids."""
    return tuple(_encoded(field) for field in registry.user)


def item_encoded(registry: Registry, _: Shape) -> tuple[Column, ...]:
    """Of `item_feat`: every embedded item field, as vocabulary ids."""
    return tuple(_encoded(field) for field in registry.item)


def user_single(registry: Registry, _: Shape) -> tuple[Column, ...]:
    """Of `samples`: the embedded single user fields, as vocabulary ids."""
    return tuple(_encoded(field) for field in registry.user if field.role == "single")


def sample_extra(registry: Registry, shape: Shape) -> tuple[Column, ...]:
    """Of `samples` in layout windows: the single user fields, who clicked the item before, where wanted, then the masks."""
    return user_single(registry, shape) + (ITEM_USERS,) * (shape.item_users > 0) + mask_columns(registry, shape)
