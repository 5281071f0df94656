"""User and item feature fields: their order, kinds and vocabularies, and the ids that every vocabulary reserves."""

from dataclasses import dataclass
from typing import Literal

PAD, MASK, OOV, EMPTY = 0, 1, 2, 3
FIRST_ID = 4  # of the most frequent real value
RESERVED = {"PAD": PAD, "MASK": MASK, "OOV": OOV, "EMPTY": EMPTY}

Side = Literal["user", "item"]
Role = Literal["single", "multi", "text"]


@dataclass(frozen=True)
class Field:
    """One feature field.

    name: as in the settings; column of `users`/`items`, of `user_feat`/`item_feat`, and of vocabulary `vocab_<name>`.
    role: single = one value, multi = a list of values, text = free text (never embedded by id).
    min_count: train clicks a value needs to get an id. max_len: ids kept of a list.
    """

    name: str
    side: Side
    role: Role
    min_count: int = 1
    max_len: int = 10


@dataclass(frozen=True)
class Registry:
    """The fields of one configuration, in the order that numbers the mask bits: bit f of a mask = field f is masked.

    `user` and `item` hold what is embedded (the id field first, where used); `user_kept` and `item_text` what is only shown, read or, of
    users, sliced by: text, and fields of users that the towers do not see.
    """

    user: tuple[Field, ...]
    item: tuple[Field, ...]
    user_kept: tuple[Field, ...] = ()
    item_text: tuple[Field, ...] = ()

    @property
    def embedded(self) -> tuple[Field, ...]:
        """Every field that has a vocabulary, users first."""
        return self.user + self.item

    def source_fields(self, side: Side) -> tuple[Field, ...]:
        """The fields that come from the source's users or items table: everything but the id field itself."""
        fields = (self.user + self.user_kept) if side == "user" else (self.item + self.item_text)
        return tuple(field for field in fields if field.name != f"{side}_id")
