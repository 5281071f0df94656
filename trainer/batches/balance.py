"""How evenly the train rows lie: over row groups, over streams, over workers."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from conf.sections.training import Trainer
from trainer.batches.order import RowGroup, plan_epoch


def balance(groups: Sequence[RowGroup], trainer: Trainer, *, workers: int) -> dict[str, Any]:
    """What the first epoch reads, as JSON; others differ in which row groups a stream has, and by a row in how many rows.

    Returns:
        row_groups: {num, least, median, most}, train rows of those that have any.
        streams: rows of each. workers: a {rows, trained, row_groups} each: rows of its streams; of them those that make whole batches;
        row groups it decodes, one that two of its streams share counted twice, for both decode it.
    """
    epoch = plan_epoch(groups, seed=trainer.seed, epoch=0, streams=trainer.streams, batch=trainer.batch)
    sizes = [group.train for group in groups if group.train]
    rows = [sum(piece.stop - piece.start for piece in pieces) for pieces in epoch.streams]
    own = trainer.streams // workers
    parts = [slice(rank * own, (rank + 1) * own) for rank in range(workers)]
    trained = epoch.steps * trainer.batch // workers
    return {
        "row_groups": {"num": len(sizes), "least": min(sizes, default=0), "median": median(sizes or [0]), "most": max(sizes, default=0)},
        "streams": rows,
        "workers": [{"rows": sum(rows[part]), "trained": trained, "row_groups": sum(map(len, epoch.streams[part]))} for part in parts],
    }
