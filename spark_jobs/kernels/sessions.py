"""Where sessions start, in one pass over events sorted by user and time."""

import numpy as np

from conf.compiled import I32, I64, compiled


@compiled
def first_out_of_order(user: I32, ts: I64) -> int:
    """The first place whose user, or time within its user, is smaller than the one before; -1 = none."""
    for n in range(1, len(user)):
        if user[n] < user[n - 1] or (user[n] == user[n - 1] and ts[n] < ts[n - 1]):
            return n
    return -1


@compiled
def starts_by_pause(user: I32, ts: I64, gap_s: int) -> I64:
    """The places where a user's first event stands, or one that comes more than gap_s after the one before it."""
    starts, num = np.empty(len(user), np.int64), 0
    for n in range(len(user)):
        if n == 0 or user[n] != user[n - 1] or ts[n] - ts[n - 1] > gap_s:
            starts[num] = n
            num += 1
    return starts[:num].copy()


@compiled
def cut_by_span(ts: I64, starts: I64, max_span_s: int) -> I64:
    """`starts` and more: greedily, a session ends before the first event further than max_span_s from its start."""
    found, num, following = np.empty(len(ts), np.int64), 0, 0
    start = np.int64(0)
    for n in range(len(ts)):
        given = following < len(starts) and starts[following] == n
        following += given
        if given or ts[n] - ts[start] > max_span_s:
            start = np.int64(n)
            found[num] = n
            num += 1
    return found[:num].copy()
