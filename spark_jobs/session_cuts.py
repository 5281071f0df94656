"""Where a user's events fall into sessions: what the sessions, and pairs that must lie close in time, are made by.

Source: MicRec 4.1 ("continuous consumption window"), read as: a pause longer than gap_s starts a new session.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from conf.errors import Fault, SettingsError
from conf.sections.data import Session

I64 = npt.NDArray[np.int64]
Kind = Literal["gap", "given", "user"]


@dataclass(frozen=True)
class Rule:
    """How a user's events fall into sessions.

    kind: gap = a pause longer than gap_s ends one; given = the source's session ids; user = all of a user is one.
    max_span_s: an event further than this from the first of its session starts a new one; None = never.
    """

    kind: Kind
    gap_s: int
    max_span_s: int | None = None


def resolve_rule(settings: Session, *, has_clock: bool, has_sessions: bool) -> Rule:
    """The rule for this data; `auto` takes given sessions, else the gap, else (no clock) whole users.

    Raises:
        SettingsError: the settings ask for what the data cannot give.
    """
    faults = []
    if settings.kind == "gap" and not has_clock:
        faults.append(Fault("session.kind: gap needs clock times", "this log has only an order of clicks", "set session.kind: user"))
    if settings.kind == "given" and not has_sessions:
        faults.append(Fault("session.kind: given needs session ids", "no click has one", "set source.columns.session_key, or kind: auto"))
    if settings.max_span_s is not None and not has_clock:
        faults.append(Fault("session.max_span_s needs clock times", "this log has only an order of clicks", "set it to null"))
    if settings.pair_max_dt_s is not None and not has_clock:
        faults.append(Fault("session.pair_max_dt_s needs clock times", "this log has only an order of clicks", "set it to null"))
    if faults:
        raise SettingsError("section session", faults)
    kind: Kind = settings.kind if settings.kind != "auto" else "given" if has_sessions else "gap" if has_clock else "user"
    return Rule(kind, settings.gap_s, settings.max_span_s)


def boundaries(events: pa.Table, rule: Rule) -> tuple[I64, I64]:
    """(order of the events that puts each session together, where sessions start in that order).

    `events` are those of whole users, sorted by user and total order, and not empty. Within a session they stay in order.
    """
    order, starts = _grouped(events, events["user_idx"].to_numpy(), events["ts"].to_numpy(), rule)
    if rule.max_span_s is not None:
        starts = _cut_long(events["ts"].to_numpy()[order], starts, rule.max_span_s)
    return order, starts


def _grouped(events: pa.Table, user: npt.NDArray[np.int32], ts: I64, rule: Rule) -> tuple[I64, I64]:
    """(order of the events that puts each session together, where sessions start in that order)."""
    new_user = np.ones(len(user), dtype=bool)
    new_user[1:] = user[1:] != user[:-1]
    order = np.arange(len(user))
    if rule.kind == "user":
        return order, np.flatnonzero(new_user)
    if rule.kind == "gap":
        return order, np.flatnonzero(new_user | np.concatenate(([True], np.diff(ts) > rule.gap_s)))
    # Given sessions of one user may interleave (two devices). They are numbered by their first event, and so stay inside their user.
    codes = events["session_key"].combine_chunks().dictionary_encode().indices
    key = codes.fill_null(-1).to_numpy().astype(np.int64)
    key[key < 0] = len(user) + np.flatnonzero(key < 0)  # a click without a session id met nothing: a session of its own
    pair = (np.cumsum(new_user) - 1) * (2 * len(user)) + key
    _, first, inverse = np.unique(pair, return_index=True, return_inverse=True)
    group = np.argsort(np.argsort(first))[inverse]
    order = np.argsort(group, kind="stable")
    return order, np.flatnonzero(np.concatenate(([True], np.diff(group[order]) > 0)))


def _cut_long(ts: I64, starts: I64, max_span_s: int) -> I64:
    """Greedy: a session ends before the first event further than max_span_s from its start."""
    ends = np.append(starts[1:], len(ts))
    more = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        while ts[end - 1] - ts[start] > max_span_s:
            start += int(np.searchsorted(ts[start:end], ts[start] + max_span_s, side="right"))
            more.append(start)
    return np.sort(np.concatenate((starts, np.array(more, dtype=np.int64))))
