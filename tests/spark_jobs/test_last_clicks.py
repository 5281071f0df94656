"""What tells of last clicks: by hand, by a slow twin, and with more users than are kept."""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Sequence

import pytest

from spark_jobs import last_clicks
from spark_jobs.last_clicks import AT, Found, LastClicks

Click = tuple[str, str, float]


def found(clicks: Sequence[Click], held_out: int = 0) -> Found:
    judge = LastClicks()
    judge.add(clicks)
    return judge.found(held_out=held_out)


def twin(clicks: Sequence[Click]) -> Found:
    """The same by dicts: cosine between items over users, summed over the items that a user clicked."""
    of: dict[str, list[Click]] = defaultdict(list)
    for click in clicks:
        of[click[0]].append(click)
    ordered = {user: [item for _, item, _ in sorted(own, key=lambda click: click[2])] for user, own in of.items()}
    before = {user: set(items[:-1]) for user, items in ordered.items()}
    count = Counter(item for seen in before.values() for item in seen)
    both = Counter((a, b) for seen in before.values() for a in seen for b in seen)
    users, popular, together = 0, 0.0, 0.0
    for user, items in ordered.items():
        last, seen = items[-1], before[user]
        if not seen or last in seen:
            continue
        users += 1
        near = {item: sum(both[item, mine] / math.sqrt(count[item] * count[mine]) for mine in seen) for item in count}
        for score, told in ((count, "popular"), (near, "together")):
            own = score.get(last, 0)
            above = sum(value > own * (1 + 1e-9) for item, value in score.items() if item not in seen)
            equal = sum(math.isclose(value, own) for item, value in score.items() if item not in seen)
            chance = min(1.0, max(0, AT - above) / equal) if own else 0.0
            popular, together = popular + chance * (told == "popular"), together + chance * (told == "together")
    return Found(users, popular / users, together / users)


def drawn(seed: int) -> list[Click]:
    """Three groups of users with tastes of their own; one click in four is repeated, a few share a moment."""
    rng = random.Random(seed)
    clicks = [
        (f"u{user}", f"i{rng.randrange(150) * 3 + (user % 3 if rng.random() < 0.7 else rng.randrange(3))}", float(rng.randrange(20)))
        for user in range(120)
        for _ in range(rng.randrange(1, 12))
    ]
    clicks += [(user, item, moment + 1) for user, item, moment in clicks if rng.random() < 0.25]
    rng.shuffle(clicks)
    return clicks


def test_none_and_users_of_one_click() -> None:
    assert found([]) == found([("u", "a", 0.0), ("v", "b", 0.0)]) == Found(0, 0.0, 0.0)


def test_last_is_by_the_clock_and_else_by_the_order() -> None:
    """Only `a` and `b` are known to others: u's last click is on `a` though `x` is told later, v's two are of one moment, and w has
    clicked its last item before."""
    others = [(user, item, 0.0) for user in ("p", "q") for item in ("a", "b", "b")]
    clicks = [("u", "a", 2.0), ("u", "b", 0.0), ("u", "x", 1.0), ("v", "b", 1.0), ("v", "a", 1.0)]
    clicks += [("w", "a", 0.0), ("w", "b", 1.0), ("w", "a", 2.0)]
    assert found(others + clicks) == Found(2, 1.0, 1.0)
    later = [(user, item, 3.0 - moment) for user, item, moment in clicks[:3]]
    assert found(others + later + clicks[3:]) == Found(2, 1.0, 1.0)  # u's last is `b` now
    assert found([*others, ("u", "x", 3.0), *clicks[1:2], *clicks[3:]]) == Found(2, 0.5, 0.5)  # u's last is `x`, which nobody knows
    assert found([*others, ("v", "b", 1.0), ("v", "y", 1.0)]) == Found(1, 0.0, 0.0)
    assert found([*others, ("v", "y", 1.0), ("v", "b", 1.0)]) == Found(1, 1.0, 0.0)


def test_held_out_clicks_are_not_looked_at() -> None:
    clicks = drawn(5)
    of: dict[str, list[Click]] = defaultdict(list)
    for click in clicks:
        of[click[0]].append(click)
    for held_out in (1, 3, 100):
        left = [click for own in of.values() for click in sorted(own, key=lambda click: click[2])[:-held_out]]
        assert found(clicks, held_out) == found(left)


def test_equal_items_share_the_room() -> None:
    """Each of 100 users has an item, which 99 click again; one clicks another's: 99 unseen ones are equal, and none go together."""
    clicks = [(f"u{n}", f"i{n or 7 * place}", float(place)) for n in range(100) for place in range(2)]
    assert found(clicks) == Found(1, pytest.approx(50 / 99), 0.0)


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_a_slow_twin(seed: int) -> None:
    clicks = drawn(seed)
    ours, slow = found(clicks), twin(clicks)
    assert (ours.users, ours.popular, ours.together) == (slow.users, pytest.approx(slow.popular), pytest.approx(slow.together))
    assert 0 < slow.popular < 1
    assert 0 < slow.together < 1


def test_the_first_users_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """All clicks of users whose first one comes before the bound, and none of others."""
    first = [(f"u{user}", item, float((place + user) % 3)) for user in range(50) for place, item in enumerate("abc")]
    later = [(f"x{user}", f"y{user}", float(place)) for user in range(200) for place in range(2)]
    assert found(first) == Found(50, 1.0, 1.0)
    monkeypatch.setattr(last_clicks, "CLICKS", 148)
    assert found(first + later + [("u0", "z", 9.0), ("x0", "z", 9.0)]) == Found(50, 0.98, 0.98)


def test_scored_users_are_evenly_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third user clicks what goes together, and those alone are scored."""
    threes = [(f"u{user}", item, float((place + user // 3) % 3)) for user in range(0, 28, 3) for place, item in enumerate("abc")]
    others = [(f"u{user}", f"x{user}{place}", float(place)) for user in range(28) if user % 3 for place in range(2)]
    clicks = sorted(threes + others, key=lambda click: int(click[0][1:]))
    assert found(clicks) == Found(28, pytest.approx(10 / 28), pytest.approx(10 / 28))
    monkeypatch.setattr(last_clicks, "SCORED", 10)
    assert found(clicks) == Found(10, 1.0, 1.0)
