"""What a training would do, as text: tables and their memory, steps, workers, losses, the line that starts it."""

from torch import nn

from conf.command import Request
from conf.errors import NotReadyError, StorageError
from conf.inputs import input_manifests
from conf.launchers import LAUNCHERS
from conf.settings import Settings
from trainer.backends import build_backend, is_sparse_table
from trainer.backends.single import SingleBackend
from trainer.batches import Batches, survey
from trainer.deferred import deferred_init
from trainer.encoders import ENCODERS, Encoder
from trainer.encoders.sharded import shard_tables
from trainer.objectives import build_objectives
from trainer.tables import Tables


def command_line(asked: Request, *, resume: bool = False) -> str:
    """The line that stands for the request, as a user types it."""
    trainer = asked.settings.trainer
    start = LAUNCHERS[trainer.launcher].words(trainer.workers)
    return " ".join([*start, *asked.arguments(), *(["--resume"] if resume else [])])


def describe(asked: Request, *, resume: bool = False) -> str:
    """The plan; reads tables, builds no weights, changes nothing. Where a table is not there yet, says so instead of counting."""
    lines = [command_line(asked, resume=resume), f"losses: {losses(asked.settings)}", *mining(asked.settings)]
    try:
        manifests = input_manifests("train", asked.store, asked.ds, asked.settings)
    except NotReadyError as error:
        return "\n".join([*lines, "tables and steps are not known yet:", *(f"  {fault}" for fault in error.faults)])
    except StorageError as error:  # a plan made away from the cluster
        return "\n".join([*lines, f"tables and steps are not known: {error.where}: {error.faults[0]}"])
    settings, trainer = asked.settings, asked.settings.trainer
    tables = Tables.read(asked.store, manifests, settings)
    registry = settings.registry()
    workers = trainer.workers if trainer.launcher != "single" else 1
    encoder = deferred_init(ENCODERS[settings.model.encoder], settings, registry, tables.catalogue, tables.vocab_sizes)
    shard_tables(encoder, trainer.sharded_tables, _FirstOf(workers))
    samples = survey(
        asked.store,
        manifests["samples"],
        build_backend("single"),
        num_items=tables.catalogue.num_items,
        clicks_per_row=trainer.clicks_per_row,
    )
    plan = Batches(samples, settings, tables.users, rank=0, size=1).plan(0)
    lines += [
        f"rows: {samples.train_rows} train, {samples.valid_rows} valid",
        f"items: {tables.catalogue.num_items}, of them eligible {len(tables.eligible)}",
        f"steps: {plan.steps} an epoch of {trainer.batch} rows ({plan.dropped} rows left out), {trainer.epochs} epochs at most",
        f"workers: {workers}, each {trainer.batch // workers} rows a step, {trainer.threads} threads; batches by {trainer.batches}",
        *memory(encoder, settings),
    ]
    return "\n".join(lines)


class _FirstOf(SingleBackend):
    """The first of several workers, which holds the most rows, as far as its memory goes."""

    def __init__(self, size: int) -> None:
        self.size = size


def losses(settings: Settings) -> str:
    """The losses with their weights in the total: '0.7 logistic + 0.3 mic (uv 1, uu 1, vv 1)'."""
    words = [f"{settings.base.weight:g} {settings.base.loss}"]
    for name, weights in settings.objectives.trained.items():
        parts = [f"{key} {weight if isinstance(weight, str) else f'{weight:g}'}" for key, weight in weights.items()]
        words.append(f"{getattr(settings.objectives, name).weight:g} {name}" + (f" ({', '.join(parts)})" if parts else ""))
    return " + ".join(words)


def mining(settings: Settings) -> list[str]:
    """One line on what is mined, and when; none where nothing is."""
    given = settings.mining
    if given is None:
        return []
    what = [f"{given.positives} of {given.neighbours} neighbours as positives"] if given.positives else []
    what += [f"{given.hard_negatives} hard negatives ({given.hard})"] if given.hard_negatives else []
    source = f"a queue of {given.queue_size} vectors"
    if given.bank == "full":
        source = f"a search every {given.refresh_steps} steps" if given.refresh_steps else "a search every epoch, of 5000 steps at most"
    return [f"mining: {', '.join(what)}; by {source}, after {given.warmup_epochs} epochs of warm-up"]


def memory(encoder: Encoder, settings: Settings) -> list[str]:
    """One line a table of weights, one for the rest, one for the sum: rows, weights and optimiser state of one worker."""
    criterion = build_objectives(settings, encoder)
    tables = {id(table) for table in encoder.tables()}
    lines, total, dense = ["memory of one worker:"], 0, 0
    for name, parameter in encoder.named_parameters():
        if id(parameter) not in tables:
            dense += _bytes(parameter) * 4  # weight, gradient and Adam's two moments
            continue
        size = _bytes(parameter)
        extra, how = 3 * size, "Adam and gradient"
        if is_sparse_table(parameter) and settings.trainer.optimizer.tables == "sparse_adam":
            extra, how = 2 * size, "SparseAdam"
        elif is_sparse_table(parameter):
            extra, how = parameter.shape[0] * parameter.element_size(), "row-wise Adagrad"
        lines.append(f"  {name}: {parameter.shape[0]} x {parameter.shape[1]}, weights {_mb(size)}, {how} {_mb(extra)}")
        total += size + extra
    dense += sum(_bytes(parameter) for parameter in criterion.parameters()) * 4
    return [*lines, f"  dense layers, all told: {_mb(dense)}", f"  sum: {_mb(total + dense)}"]


def _bytes(parameter: nn.Parameter) -> int:
    return parameter.numel() * parameter.element_size()


def _mb(size: int) -> str:
    return f"{size / 2**20:.1f} MB"
