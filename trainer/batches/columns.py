"""The columns of `samples` that a batch is made of, decoded to numpy."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from conf.errors import BadDataError, Fault
from conf.fields import Registry
from conf.schemas.table import Strategy, masked_views
from trainer.batches.order import RowGroup

Decoded = Mapping[str, npt.NDArray[np.generic]]
"""One row group: column -> array[rows], hist -> int32[rows, L]."""

PLAIN = ("sample_id", "user_idx", "item_idx", "split", "hist", "hist_len", "weight")

WEIGHTS = ("weight", "hist_weight")

AGAIN = "restore the file, or run: trichannel samples --force"


def mask_names(strategy: Strategy) -> tuple[str, ...]:
    """um_<v>, uh_<v>, vm_<v> of each masked view: in a batch, where the draw is chosen."""
    return tuple(f"{mask}_{view}" for view in masked_views(strategy) for mask in ("um", "uh", "vm"))


def mask_columns(strategy: Strategy, draw: int) -> tuple[str, ...]:
    """The stored masks of draw number `draw`."""
    return tuple(f"{mask}{draw}" for mask in mask_names(strategy))


def columns_for(registry: Registry, *, clicks_per_row: int = 1) -> tuple[str, ...]:
    """The columns every epoch needs: ids, history, single user fields; the weights of a row's other clicks where it stands for several."""
    plain = PLAIN if clicks_per_row == 1 else (*PLAIN, "hist_weight")
    return plain + tuple(field.name for field in registry.user if field.role == "single")


def to_numpy(table: pa.Table, group: RowGroup, history: int) -> Decoded:
    """The table's columns as arrays; raises BadDataError for lists that are not `history` long."""
    out: dict[str, npt.NDArray[np.generic]] = {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        if pa.types.is_list(column.type):
            lengths = np.diff(column.offsets.to_numpy())
            if (lengths != history).any():
                raise wrong_length(sorted(set(lengths.tolist())), group, history)
            out[name] = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), history)
        else:
            out[name] = column.to_numpy(zero_copy_only=False)
    return out


def wrong_length(found: Iterable[int], group: RowGroup, history: int) -> BadDataError:
    """The error for histories of another length than model.history."""
    lengths = ", ".join(map(str, found))
    return BadDataError(group.file, [Fault(f"column 'hist' holds lists of length {lengths}", f"want {history}", AGAIN)])


def unreadable(group: RowGroup, error: Exception) -> BadDataError:
    """The error for a file that cannot be decoded."""
    text = " ".join(str(error).split())[:200]
    return BadDataError(group.file, [Fault(f"row group {group.index} cannot be read", text, AGAIN)])


def check(decoded: Decoded, group: RowGroup, columns: Sequence[str], history: int) -> Decoded:
    """The decoded row group, if it has the columns, rows and kinds of values it should have; raises BadDataError otherwise."""
    missing = [Fault(f"column {name!r} is missing", f"found: {', '.join(decoded)}", AGAIN) for name in columns if name not in decoded]
    if missing:
        raise BadDataError(group.file, missing)
    rows = len(decoded["sample_id"])
    if rows != group.rows:
        raise BadDataError(group.file, [Fault(f"row group {group.index} has {rows} rows", f"its manifest says {group.rows}", AGAIN)])
    if decoded["hist"].shape != (rows, history):
        raise wrong_length(decoded["hist"].shape[1:], group, history)
    # integers with nulls decode to floats, in both sources
    floats = [name for name in columns if name not in WEIGHTS and decoded[name].dtype.kind not in "iu"]
    if floats or np.isnan(decoded["weight"]).any():
        raise BadDataError(group.file, [Fault(f"column {name!r} has nulls or is no integer", fix=AGAIN) for name in floats or ["weight"]])
    return decoded
