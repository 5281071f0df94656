"""Who is compared: `variant[/channel][@ds]` and the published runs it stands for; several trainings as `a,b,c` or `name-s*`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final

from conf.command import Request
from conf.errors import Fault, NotReadyError, UsageError
from conf.manifest import Manifest
from conf.names import is_day
from conf.storage import Store
from spark_jobs.published_rows import rows_of

MERGED: Final = "merged"
_FORM: Final = re.compile(r"([^/@]*)(?:/([^/@]+))?(?:@([^/@]+))?")


@dataclass(frozen=True)
class Contender:
    """One side of a comparison. at: the cut-offs that all its runs were scored at. runs: of metrics_user, one a training."""

    name: str
    channel: str
    at: tuple[int, ...]
    runs: tuple[Manifest, ...]

    def told(self) -> dict[str, Any]:
        """As it stands in the result."""
        return {"name": self.name, "channel": self.channel, "runs": {run.variant: run.run_id for run in self.runs}}


@dataclass
class _Faults:
    """wrong: a retry will not help. missing: what may still come."""

    wrong: list[Fault] = field(default_factory=list)
    missing: list[Fault] = field(default_factory=list)


def contenders(asked: Request, texts: Sequence[str]) -> list[Contender]:
    """The sides that the texts name; what a text leaves out is the variant and day asked for, and the merged list.

    Raises:
        UsageError: no such variant or channel, nothing was held out, or two sides share a training.
        NotReadyError: a variant has no metrics of the day. BadDataError: files are missing or cut.
    """
    faults = _Faults()
    sides = [side for text in texts if (side := _side(asked, text, faults))]
    known = [(run.identity, side.channel) for side in sides for run in side.runs]
    for identity, channel in sorted({pair for pair in known if known.count(pair) > 1}):
        found = f"{identity.split(' ')[0]}, channel {channel}"
        faults.wrong.append(Fault("A and B share a training", found, "name another variant, channel or day"))
    if faults.wrong:
        raise UsageError("trichannel compare", [*faults.wrong, *faults.missing])
    if faults.missing:
        raise NotReadyError("trichannel compare", faults.missing)
    return sides


def _side(asked: Request, text: str, faults: _Faults) -> Contender | None:
    parts = _FORM.fullmatch(text)
    if parts is None or not is_day(parts[3] or asked.ds):
        faults.wrong.append(Fault(f"{text!r} names no side", fix="give variant[/channel][@YYYY-MM-DD], for instance main/u2i@2026-01-31"))
        return None
    words, channel, ds = parts[1] or asked.variant, parts[2] or MERGED, parts[3] or asked.ds
    variants = _variants(words.split(","), asked.store, faults)
    scored = [found for variant in variants if (found := _scored(asked, variant, channel, ds, faults))]
    if len(scored) < len(variants) or not scored:
        return None
    common = set.intersection(*(at for _, at in scored))
    return Contender(f"{words}/{channel}@{ds}", channel, tuple(sorted(common)), tuple(run for run, _ in scored))


def _variants(words: Sequence[str], store: Store, faults: _Faults) -> list[str]:
    """The variants that the words match, each once."""
    known, found = store.variants(), dict[str, None]()
    for word in words:
        matched = [variant for variant in known if fnmatchcase(variant, word)]
        found |= dict.fromkeys(matched)
        if not matched:
            faults.wrong.append(Fault(f"no variant {word!r} under {store.base}", f"known: {', '.join(known) or 'none'}"))
    return list(found)


def _scored(asked: Request, variant: str, channel: str, ds: str, faults: _Faults) -> tuple[Manifest, set[int]] | None:
    """The variant's own run of metrics_user of the day, and the cut-offs at which it scored the channel."""
    store = Store.of(asked.settings, variant)
    record = store.current("offline_metrics", ds)
    if record is None:
        had = f"committed days: {', '.join(store.days('offline_metrics')[-5:]) or 'none'}"
        fix = f"run: trichannel offline_metrics --ds {ds} --variant {variant}"
        faults.missing.append(Fault(f"{variant} has no metrics_user of {ds}", had, fix))
        return None
    run, metrics = (store.load_manifest(table, record) for table in ("metrics_user", "metrics"))
    if not run.rows:
        fix = "hold clicks out by split.kind, or score a later day's by --truth-ds"
        faults.wrong.append(Fault(f"{variant} of {ds} has no user with anything to find", fix=fix))
        return None
    rows = [row for row in rows_of(store, metrics, columns=["channel", "n"]).to_pylist() if row["n"]]  # 0: of the vectors, of no user
    at = {row["n"] for row in rows if row["channel"] == channel}
    if not at:
        known = ", ".join(sorted({row["channel"] for row in rows}))
        faults.wrong.append(Fault(f"{variant} of {ds} has no channel {channel!r}", f"known: {known}"))
        return None
    return run, at
