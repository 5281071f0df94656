"""Every rule of the merge by hand, and against plain loops."""

import numpy as np
import pytest

from conf.sections.retrieval import Merge
from retrieval.merge import MERGES, merge
from retrieval.ragged import Ragged
from tests.retrieval.small_world import lists_of


def lists(*items):
    """Lists with scores 1, 1/2, 1/3 ..."""
    return Ragged.of(items, [[1 / (place + 1) for place in range(len(one))] for one in items])


def fuse(channels, categories=None, **settings):
    """Merged for users who all have history."""
    num = len(next(iter(channels.values())))
    kinds = None if categories is None else np.array(categories, dtype=np.int32)
    return merge(channels, Merge.model_validate({"top": 10} | settings), has_history=np.ones(num, dtype=np.bool_), categories=kinds)


def items_of(merged):
    return [[item for item, _ in one] for one in lists_of(merged.lists)]


def as_seen(merged):
    sources = merged.sources_to_arrow().to_pylist()
    return [
        [(item, score, source) for (item, score), source in zip(one, brought, strict=True)]
        for one, brought in zip(lists_of(merged.lists), sources, strict=True)
    ]


# ---- the rules as plain loops: {channel: [(item, score)]} of one user -> [(item, score)], best first -----------------


def normalised(pairs, how):
    scores = [score for _, score in pairs]
    if how == "percentile":
        return {item: (len(pairs) - rank) / len(pairs) for rank, (item, _) in enumerate(pairs)}
    low, high = (min(scores), max(scores)) if scores else (0, 0)
    return {item: (score - low) / (high - low) if high > low else 1.0 for item, score in pairs}


def slow_rrf(channels, settings, _):
    scores = {}
    for name, pairs in channels.items():
        for rank, (item, _score) in enumerate(pairs, start=1):
            scores[item] = scores.get(item, 0.0) + settings.weights.get(name, 1) / (60 + rank)
    return sorted(((i, float(np.float32(s))) for i, s in scores.items()), key=lambda pair: (-pair[1], pair[0]))


def slow_norm(channels, settings, _):
    scores = {}
    for name, pairs in channels.items():
        for item, score in normalised(pairs, settings.normalise).items():
            scores[item] = scores.get(item, 0.0) + settings.weights.get(name, 1) * score
    return sorted(((i, float(np.float32(s))) for i, s in scores.items()), key=lambda pair: (-pair[1], pair[0]))


def slow_quota(channels, settings, kind_of):
    """Channels choose one after the other; then their choices take turns."""
    given = settings.quotas or {name: settings.top // len(channels) + (n < settings.top % len(channels)) for n, name in enumerate(channels)}
    taken, used, chosen = set(), {}, {}
    for name, pairs in channels.items():
        chosen[name] = []
        for item, _ in pairs:
            full = settings.max_per_category is not None and used.get(kind_of(item), 0) >= settings.max_per_category
            if item not in taken and not full and len(chosen[name]) < given.get(name, 0):
                chosen[name].append(item)
                taken.add(item)
                used[kind_of(item)] = used.get(kind_of(item), 0) + 1
    longest = max((len(one) for one in chosen.values()), default=0)
    turns = [one[turn] for turn in range(longest) for one in chosen.values() if turn < len(one)]
    return [(item, float(np.float32(1 / place))) for place, item in enumerate(turns, start=1)]


def slow_diverse(channels, settings, kind_of):
    """ComiRec's greedy step, to the letter: argmax of f - lambda * items of the category in S, until nothing is left."""
    best = {}
    for name, pairs in channels.items():
        for item, score in normalised(pairs, settings.normalise).items():
            best[item] = max(best.get(item, 0.0), settings.weights.get(name, 1) * score)
    best, used, made = {item: float(np.float32(score)) for item, score in best.items()}, {}, []
    while best:
        gains = {item: f - settings.diversity * used.get(kind_of(item), 0) for item, f in best.items()}
        item = min(gains, key=lambda i: (-np.float32(gains[i]), i))
        made.append((item, float(np.float32(gains[item]))))
        used[kind_of(item)] = used.get(kind_of(item), 0) + 1
        del best[item]
    return made


SLOW = {"rrf": slow_rrf, "norm": slow_norm, "quota": slow_quota, "diverse": slow_diverse}


def slow(channels, user, settings, categories):
    """[(item, score, sources)]; unknown categories (-1) are like no other."""

    def kind_of(item):
        return ("item", item) if categories[item] < 0 else ("category", categories[item])

    named = settings.kind == "quota" and settings.quotas
    weight = settings.quotas.get if named else (lambda name, _: settings.weights.get(name, 1))
    mine = {name: lists_of(ragged)[user] for name, ragged in channels.items() if weight(name, 0) > 0}
    made, used, kept = SLOW[settings.kind](mine, settings, kind_of), {}, []
    for item, score in made:
        used[kind_of(item)] = used.get(kind_of(item), 0) + 1
        if settings.max_per_category is None or used[kind_of(item)] <= settings.max_per_category:
            kept.append((item, score))
    sources = {}
    for name, pairs in mine.items():
        for rank, (item, score) in enumerate(pairs, start=1):
            sources.setdefault(item, []).append({"channel": name, "rank": rank, "score": score})
    return [(item, score, sources[item]) for item, score in kept[: settings.top]]


def random_channels(seed, num_users=9):
    """Three channels of lists of 0 to 14 of 30 items, with equal scores now and then; categories 0..3 or unknown."""
    rng = np.random.default_rng(seed)

    def one():
        items = [rng.permutation(30)[: rng.integers(0, 15)].tolist() for _ in range(num_users)]
        scores = [sorted((rng.integers(-4, 9, len(each)) / 4).tolist(), reverse=True) for each in items]
        ordered = [sorted(zip(i, s, strict=True), key=lambda p: (-p[1], p[0])) for i, s in zip(items, scores, strict=True)]
        return Ragged.of([[i for i, _ in each] for each in ordered], [[s for _, s in each] for each in ordered])

    return {name: one() for name in "abc"}, rng.integers(-1, 4, 30).astype(np.int32)


def test_every_rule_has_a_twin():
    assert set(MERGES) == set(SLOW)


@pytest.mark.parametrize("cap", [None, 1, 2])
@pytest.mark.parametrize("weights", [{}, {"a": 3.0}, {"b": 0.0, "c": 0.5}, {"a": 0.0, "b": 0.0, "c": 0.0}])
@pytest.mark.parametrize("top", [1, 7, 100])
@pytest.mark.parametrize("kind", ["rrf", "norm", "diverse"])
def test_equals_the_rule_written_as_loops(kind, weights, top, cap):
    channels, categories = random_channels(top)
    for normalise in ("minmax", "percentile"):
        given = {"kind": kind, "weights": weights, "top": top, "max_per_category": cap, "normalise": normalise, "diversity": 0.15}
        settings = Merge.model_validate(given)
        assert as_seen(fuse(channels, categories, **given)) == [slow(channels, user, settings, categories) for user in range(9)]


@pytest.mark.parametrize("cap", [None, 1, 2])
@pytest.mark.parametrize(("top", "quotas"), [(7, {}), (9, {"a": 2, "b": 3, "c": 4}), (8, {"c": 8}), (30, {"a": 20, "b": 10}), (1, {})])
def test_quotas_equal_the_rule_written_as_loops(top, quotas, cap):
    channels, categories = random_channels(top)
    given = {"kind": "quota", "quotas": quotas, "top": top, "max_per_category": cap}
    settings = Merge.model_validate(given)
    assert as_seen(fuse(channels, categories, **given)) == [slow(channels, user, settings, categories) for user in range(9)]


@pytest.mark.parametrize("kind", sorted(MERGES))
def test_a_user_gets_the_same_list_alone(kind):
    channels, categories = random_channels(3)
    whole = as_seen(fuse(channels, categories, kind=kind, max_per_category=3))
    for user in range(9):
        alone = {name: one.part(user, user + 1) for name, one in channels.items()}
        assert as_seen(fuse(alone, categories, kind=kind, max_per_category=3)) == [whole[user]]


# ---- rank fusion ---------------------------------------------------------------------------------------------------


def test_p7_3_identical_lists_fuse_to_the_list():
    same = lists([5, 9, 2], [], [7])
    assert items_of(fuse({"a": same, "b": same})) == [[5, 9, 2], [], [7]]


def test_p7_3_ranks_1_and_2_score_1_61_plus_1_62():
    merged = fuse({"a": lists([4, 8]), "b": lists([8, 4])})
    assert as_seen(merged) == [
        [
            (4, pytest.approx(0.0325225, abs=1e-7), [{"channel": "a", "rank": 1, "score": 1.0}, {"channel": "b", "rank": 2, "score": 0.5}]),
            (8, pytest.approx(0.0325225, abs=1e-7), [{"channel": "a", "rank": 2, "score": 0.5}, {"channel": "b", "rank": 1, "score": 1.0}]),
        ]
    ]
    assert merged.lists.weights[0] == merged.lists.weights[1]  # equal scores: the smaller item_idx comes first


# ---- normalised scores ---------------------------------------------------------------------------------------------


def test_normalised_scores_by_hand():
    """a: 9 -> 1, 7 -> 1/2, 5 -> 0; b: all equal -> 1; the sums are 3: 1, 1: 1.5, 4: 1, 2: 0."""
    channels = {"a": Ragged.of([[3, 1, 2]], [[9, 7, 5]]), "b": Ragged.of([[1, 4]], [[0.2, 0.2]])}
    assert lists_of(fuse(channels, kind="norm").lists) == [[(1, 1.5), (3, 1.0), (4, 1.0), (2, 0.0)]]
    assert lists_of(fuse(channels, kind="norm", weights={"b": 0.5}).lists) == [[(1, 1.0), (3, 1.0), (4, 0.5), (2, 0.0)]]


def test_percentiles_by_hand():
    """a: 1, 2/3, 1/3 by place alone; b: 1, 1/2."""
    channels = {"a": Ragged.of([[3, 1, 2]], [[900, 7, 5]]), "b": Ragged.of([[1, 4]], [[0.2, 0.2]])}
    found = lists_of(fuse(channels, kind="norm", normalise="percentile").lists)[0]
    assert found == [(1, pytest.approx(5 / 3)), (3, 1.0), (4, 0.5), (2, pytest.approx(1 / 3))]


# ---- quotas --------------------------------------------------------------------------------------------------------


def test_quota_dedupes_by_priority_refills_from_the_same_channel_and_takes_turns():
    """a takes 1, 2; b may not take 1 again and takes 5, 6 instead; c is short and stays so: nobody fills its places."""
    channels = {"a": lists([1, 2, 3]), "b": lists([1, 5, 6, 7]), "c": lists([2, 9])}
    merged = fuse(channels, kind="quota", quotas={"a": 2, "b": 2, "c": 2}, top=6)
    assert items_of(merged) == [[1, 5, 9, 2, 6]]
    assert merged.lists.weights.tolist() == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])
    first = merged.sources_to_arrow().to_pylist()[0][0]
    assert [(one["channel"], one["rank"]) for one in first] == [("a", 1), ("b", 1)]  # b brought it, too


def test_equal_quotas_give_the_first_channels_what_is_left_over():
    channels = {"a": lists([1, 2, 3, 4]), "b": lists([11, 12, 13, 14]), "c": lists([21, 22, 23, 24])}
    assert items_of(fuse(channels, kind="quota", top=8)) == [[1, 11, 21, 2, 12, 22, 3, 13]]


# ---- diversity and caps --------------------------------------------------------------------------------------------


def test_p7_4_lambda_0_is_the_top_n_of_the_best_score():
    channels, categories = random_channels(5)
    merged = fuse(channels, categories, kind="diverse", diversity=0, top=6)
    for user, found in enumerate(lists_of(merged.lists)):
        best = {}
        for ragged in channels.values():
            for item, score in normalised(lists_of(ragged)[user], "minmax").items():
                best[item] = max(best.get(item, 0), float(np.float32(score)))
        assert found == sorted(best.items(), key=lambda pair: (-pair[1], pair[0]))[:6]


def test_p7_4_a_huge_lambda_makes_the_categories_as_balanced_as_possible():
    channels = {"a": lists([1, 2, 3, 4, 5, 6, 7, 8])}
    categories = [-1, 0, 0, 0, 0, 0, 1, 1, 2]  # five of 0, two of 1, one of 2
    assert items_of(fuse(channels, categories, kind="diverse", diversity=1e3, top=6)) == [[1, 6, 8, 2, 7, 3]]


def test_more_lambda_more_pairs_of_different_category():
    """The shape of ComiRec's table 5. (Greedy picks may cross for lambdas that lie near each other.)"""
    channels, categories = random_channels(6, num_users=40)
    pairs = []
    for diversity in (0, 0.1, 0.25, 10):
        found = items_of(fuse(channels, np.abs(categories), kind="diverse", diversity=diversity, top=8))
        pairs.append(sum(abs(categories[i]) != abs(categories[j]) for one in found for i in one for j in one))
    assert pairs == sorted(set(pairs))


def test_a_cap_leaves_room_for_what_comes_next_and_items_without_category_are_never_capped():
    channels = {"a": lists([1, 2, 3, 4, 5, 6])}
    categories = [-1, 0, 0, 0, 1, -1, -1]
    assert items_of(fuse(channels, categories, max_per_category=1, top=4)) == [[1, 4, 5, 6]]
    assert items_of(fuse(channels, categories, max_per_category=2, top=3)) == [[1, 2, 4]]
    assert items_of(fuse(channels, categories[:3], max_per_category=1, top=9)) == [[1, 3, 4, 5, 6]]  # the others have none


# ---- users without history -----------------------------------------------------------------------------------------

KNOWN_AND_NEW = np.array([True, False])


@pytest.mark.parametrize("kind", ["rrf", "norm", "quota"])
def test_popular_serves_only_users_without_history(kind):
    channels = {"u2i": lists([1, 2], [1, 2]), "popular": lists([3], [3])}
    merged = merge(channels, Merge(kind=kind, top=10), has_history=KNOWN_AND_NEW)
    assert items_of(merged) == [[1, 2], [3]]
    assert merged.is_fallback.tolist() == [False, True]
    assert merged.sources_to_arrow().to_pylist()[1] == [[{"channel": "popular", "rank": 1, "score": 1.0}]]


def test_popular_joins_everybody_when_it_is_given_a_weight_or_a_quota():
    channels = {"u2i": lists([1, 2], [1]), "popular": lists([3, 1], [3])}
    weighed = merge(channels, Merge(weights={"popular": 0.5}, top=10), has_history=KNOWN_AND_NEW)
    assert items_of(weighed) == [[1, 2, 3], [3]]
    shared = merge(channels, Merge(kind="quota", quotas={"u2i": 1, "popular": 1}, top=2), has_history=KNOWN_AND_NEW)
    assert items_of(shared) == [[1, 3], [3]]


def test_a_popular_weight_of_0_keeps_the_fallback():
    channels = {"u2i": lists([1], [1]), "popular": lists([3], [3])}
    merged = merge(channels, Merge(weights={"popular": 0}, top=10), has_history=KNOWN_AND_NEW)
    assert items_of(merged) == [[1], [3]]


def test_without_a_popular_channel_nobody_falls_back():
    merged = merge({"u2i": lists([1], [2])}, Merge(top=10), has_history=KNOWN_AND_NEW)
    assert items_of(merged) == [[1], [2]]
    assert not merged.is_fallback.any()


@pytest.mark.parametrize("kind", ["rrf", "quota"])
def test_a_user_without_history_gets_cold_and_popular_and_is_a_fallback_only_where_cold_is_empty(kind):
    channels = {"u2i": lists([1], [1], [1]), "cold": lists([8], [8, 9], []), "popular": lists([3, 4], [3, 4], [3, 4])}
    merged = merge(channels, Merge(kind=kind, top=4), has_history=np.array([True, False, False]))
    assert [set(one) for one in items_of(merged)] == [{1, 8}, {8, 9, 3, 4}, {3, 4}]
    assert merged.is_fallback.tolist() == [False, False, True]
    off = merge(channels, Merge(kind=kind, top=4, weights={"cold": 0}), has_history=np.array([True, False, False]))
    assert [set(one) for one in items_of(off)] == [{1}, {3, 4}, {3, 4}]
    assert off.is_fallback.tolist() == [False, True, True]
