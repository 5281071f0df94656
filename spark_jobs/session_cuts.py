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
from spark_jobs.kernels.sessions import cut_by_span, starts_by_pause

I64 = npt.NDArray[np.int64]
_NEVER_S = 2**62  # a pause longer than any
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


def boundaries(events: pa.Table, rule: Rule) -> tuple[I64 | None, I64]:
    """(order of the events that puts each session together, None = as they stand; where sessions start in that order).

    `events` are those of whole users, sorted by user and total order. Within a session they stay in order.
    """
    user, ts = events["user_idx"].to_numpy(), events["ts"].to_numpy()
    order = None
    if rule.kind == "given":
        order, starts = _given(events, user)
        ts = ts[order]
    else:
        starts = starts_by_pause(user, ts, rule.gap_s if rule.kind == "gap" else _NEVER_S)
    return order, starts if rule.max_span_s is None else cut_by_span(ts, starts, rule.max_span_s)


def _given(events: pa.Table, user: npt.NDArray[np.int32]) -> tuple[I64, I64]:
    # Given sessions of one user may interleave (two devices). They are numbered by their first event, and so stay inside their user.
    codes = events["session_key"].combine_chunks().dictionary_encode().indices
    key = codes.fill_null(-1).to_numpy().astype(np.int64)
    key[key < 0] = len(user) + np.flatnonzero(key < 0)  # a click without a session id met nothing: a session of its own
    new_user = np.diff(user, prepend=user[:1] - 1) != 0
    pair = (np.cumsum(new_user) - 1) * (2 * len(user)) + key
    _, first, inverse = np.unique(pair, return_index=True, return_inverse=True)
    group = np.argsort(np.argsort(first))[inverse]
    order = np.argsort(group, kind="stable")
    return order, np.flatnonzero(np.diff(group[order], prepend=-1) > 0)
