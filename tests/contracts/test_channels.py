"""One suite over every channel: what a list promises, whatever fills it; and each against the plain loops of its formula."""

from dataclasses import replace

import numpy as np
import pytest

from conf.sections.retrieval import Channels
from retrieval import scoring
from retrieval.channels import CHANNELS, build_channel
from retrieval.index_inputs import Vectors
from retrieval.index_measure import make
from retrieval.index_parts import Parts
from retrieval.ragged import Ragged
from retrieval.scoring import nearest_unseen
from retrieval.vector_index import set_effort
from tests.retrieval.small_world import TWINS, flat_index, lists_of, make_case

SETTINGS = Channels.model_validate(
    {"top": 12, "u2u2i": {"neighbours": 5, "profile": 8}, "i2i": {"neighbours": 4, "history": 6}, "itemcf": {"history": 7}}
)
every_channel = pytest.mark.parametrize("name", sorted(CHANNELS))
every_filter = pytest.mark.parametrize("seen", ["none", "history", "train_and_history"])


def close(found, wanted):
    """Same items in the same order; scores to the last float32 digit or so."""
    assert [[i for i, _ in one] for one in found] == [[i for i, _ in one] for one in wanted]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose([s for _, s in one], [s for _, s in other], rtol=3e-7, atol=1e-9)


def test_every_channel_of_the_settings_is_there_and_has_a_twin():
    assert set(CHANNELS) == set(TWINS) == set(Channels(names=list(CHANNELS)).names)
    with pytest.raises(ValueError, match="unknown channel 'u2x'; known: cold, i2i, itemcf, popular, u2i, u2u2i"):
        build_channel("u2x")


@every_channel
@every_filter
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_the_formula_written_as_loops(name, seen, seed):
    case = make_case(seed=seed, seen=seen, interests=1 + seed % 2)
    found = lists_of(CHANNELS[name](case.users, case.world, SETTINGS))
    close(found, [TWINS[name](case, user, SETTINGS) for user in range(len(case.users))])


@every_channel
def test_equals_the_formula_on_real_valued_vectors(name):
    case = make_case(seed=5, ties=False, dim=16)
    found = lists_of(CHANNELS[name](case.users, case.world, SETTINGS))
    close(found, [TWINS[name](case, user, SETTINGS) for user in range(len(case.users))])


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("u2u2i", {"agg": "max"}),
        ("u2u2i", {"relevance": "none"}),
        ("u2u2i", {"relevance": "raw"}),
        ("u2u2i", {"power": 2.5}),
        ("u2u2i", {"neighbours": 1}),
        ("i2i", {"agg": "max"}),
        ("i2i", {"gamma": 0.7}),
        ("i2i", {"gamma": 0.7, "agg": "max"}),
        ("i2i", {"history": 1}),
    ],
)
def test_options_equal_their_formula(name, option):
    case = make_case(seed=3)
    own = getattr(SETTINGS, name).model_copy(update=option)
    settings = SETTINGS.model_copy(update={name: own})
    found = lists_of(CHANNELS[name](case.users, case.world, settings))
    close(found, [TWINS[name](case, user, settings) for user in range(len(case.users))])


def test_u2i_by_inner_product_ranks_by_it():
    case = make_case(seed=4, is_unit=False)
    found = lists_of(CHANNELS["u2i"](case.users, case.world, SETTINGS))
    close(found, [TWINS["u2i"](case, user, SETTINGS) for user in range(len(case.users))])
    assert max(score for one in found for _, score in one) > 1


@every_channel
def test_batch_equals_single_bit_for_bit(name):
    case = make_case(seed=6, ties=False, dim=32)
    whole = lists_of(CHANNELS[name](case.users, case.world, SETTINGS))
    for size in (1, 7):
        parts = [case.users.part(start, start + size) for start in range(0, len(case.users), size)]
        assert [one for part in parts for one in lists_of(CHANNELS[name](part, case.world, SETTINGS))] == whole


@every_channel
def test_lists_are_ordered_distinct_recommendable_and_at_most_top(name):
    case = make_case(seed=7)
    for one in lists_of(CHANNELS[name](case.users, case.world, SETTINGS)):
        items, scores = [i for i, _ in one], [s for _, s in one]
        assert len(items) <= SETTINGS.top
        assert len(set(items)) == len(items)
        assert set(items) <= set(case.recommendable)  # specials 0..3 are no items; ineligible ones never come back
        assert one == sorted(one, key=lambda pair: (-pair[1], pair[0]))
        assert np.isfinite(scores).all()


@every_channel
@pytest.mark.parametrize("seen", ["history", "train_and_history"])
def test_p7_5_filtered_list_is_the_unfiltered_list_without_the_seen(name, seen):
    filtered, free = make_case(seed=8, seen=seen), make_case(seed=8, seen="none")
    unlimited = SETTINGS.model_copy(update={"top": 1000})
    found = lists_of(CHANNELS[name](filtered.users, filtered.world, SETTINGS))
    everything = lists_of(CHANNELS[name](free.users, free.world, unlimited))
    for user, one in enumerate(found):
        assert not {i for i, _ in one} & filtered.seen[user]
        assert one == [pair for pair in everything[user] if pair[0] not in filtered.seen[user]][: SETTINGS.top]


KINDS = ["Flat", "HNSW16", "IVF4,Flat", "IVF4,SQ8", "IVF4,PQ3x4", "PCA4,IVF4,SQ8", "parts"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("interests", [1, 2])
def test_every_kind_of_index_keeps_what_a_list_promises(kind, interests):
    """P7.5 at one depth: the list is that of `top` and as many as were seen, without the seen; exact where the kind looks at all rows."""
    given = {"seed": 8, "num_users": 40, "num_items": 300, "dim": 12, "interests": interests, "ties": False}
    case, free = make_case(**given), make_case(**given, seen="none")
    flat = case.world.items
    if kind == "parts":
        halves = [flat_index(flat.ids[part], flat.vectors[part]).searcher for part in (slice(0, 20), slice(20, None))]
        index = replace(flat, searcher=Parts(halves))
    else:
        index = make("items", Vectors(flat.ids, flat.vectors), kind, is_unit=True).index
        set_effort(index.searcher, 4 if "IVF" in kind else 64)
    world = replace(case.world, items=index)
    found = lists_of(CHANNELS["u2i"](case.users, world, SETTINGS))
    for user, one in enumerate(found):
        num, seen = len(case.seen[user]), case.seen[user]
        deeper = SETTINGS.model_copy(update={"top": SETTINGS.top + num})
        (everything,) = lists_of(CHANNELS["u2i"](free.users.part(user, user + 1), world, deeper))
        assert one == [pair for pair in everything if pair[0] not in seen][: SETTINGS.top]
        assert {i for i, _ in one} <= set(case.recommendable)
    if kind in ("Flat", "HNSW16", "IVF4,Flat", "parts"):
        close(found, [TWINS["u2i"](case, user, SETTINGS) for user in range(len(case.users))])


def test_users_without_a_vector_have_nothing_near():
    case = make_case(seed=0)
    assert [len(CHANNELS[name](case.users.part(1, 2), case.world, SETTINGS).values) for name in ("u2i", "cold")] == [0, 0]


@pytest.mark.parametrize("name", ["u2u2i", "i2i", "itemcf"])
def test_users_whose_paths_are_gathered_in_parts(name, monkeypatch):
    case = make_case(seed=6, ties=False)
    whole = lists_of(CHANNELS[name](case.users, case.world, SETTINGS))
    monkeypatch.setattr(scoring, "_PART", 7)
    assert lists_of(CHANNELS[name](case.users, case.world, SETTINGS)) == whole


@every_channel
def test_p7_2_scores_of_the_three_channels_lie_in_0_1(name):
    case = make_case(seed=9, interests=2)
    lists = lists_of(CHANNELS[name](case.users, case.world, SETTINGS))
    low, high = {"u2i": (-1, 1), "cold": (-1, 1), "u2u2i": (0, 1), "i2i": (0, 1)}.get(name, (0, np.inf))
    scores = [score for one in lists for _, score in one]
    assert scores
    assert low <= min(scores)
    assert max(scores) <= high


@pytest.mark.parametrize("name", ["u2u2i", "i2i"])
def test_p7_2_score_grows_with_the_cosine_of_user_and_item(name):
    """Turn the user's vector towards an item: its score grows, everything else about the user being equal."""
    case = make_case(seed=10, ties=False, seen="none")
    before = lists_of(CHANNELS[name](case.users, case.world, SETTINGS))[3]
    item = before[-1][0]
    vectors = case.users.vectors.copy()
    vectors[3, 0] = vectors[3, 0] / np.linalg.norm(vectors[3, 0]) + case.item_vectors[item] / np.linalg.norm(case.item_vectors[item])
    turned = replace(case.users, vectors=vectors)
    unlimited = SETTINGS.model_copy(update={"top": 1000})
    assert dict(lists_of(CHANNELS[name](turned, case.world, unlimited))[3])[item] > dict(before)[item]


def test_p7_1_one_neighbour_without_relevance_gives_its_profile():
    """One neighbour with S = 1, no cosine factor: every profile item scores 1, so the list is the profile by item_idx."""
    case = make_case(seed=11, seen="none")
    users = replace(case.users, neighbours=Ragged.of([[2]] * len(case.users), [[1.0]] * len(case.users)))
    settings = Channels.model_validate({"top": 50, "u2u2i": {"neighbours": 50, "relevance": "none"}})
    found = lists_of(CHANNELS["u2u2i"](users, case.world, settings))
    expected = [(item, 1.0) for item in sorted(set(case.profiles[2]) & set(case.recommendable))]
    assert expected
    assert all(one == expected for one in found)


def test_u2u2i_shares_are_equal_when_no_neighbour_is_similar():
    case = make_case(seed=12, seen="none")
    users = replace(case.users, neighbours=Ragged.of([[2, 3]] * len(case.users), [[-0.2, -0.7]] * len(case.users)))
    settings = Channels.model_validate({"top": 50, "u2u2i": {"relevance": "none"}})
    scores = {score for one in lists_of(CHANNELS["u2u2i"](users, case.world, settings)) for _, score in one}
    assert scores <= {0.5, 1.0}


@pytest.mark.parametrize("interests", [2, 4])
@every_channel
def test_p4_7_copies_of_one_vector_equal_one_vector(name, interests):
    case = make_case(seed=13, ties=False)
    copied = replace(case.users, vectors=np.repeat(case.users.vectors, interests, axis=1))
    assert lists_of(CHANNELS[name](copied, case.world, SETTINGS)) == lists_of(CHANNELS[name](case.users, case.world, SETTINGS))


@every_channel
def test_empty_history_follows_the_table_of_edge_cases(name):
    """u2i, u2u2i and cold normal (they have a vector), popular normal, i2i and itemcf empty: never filled from elsewhere."""
    case = make_case(seed=14)
    assert case.histories[0] == []
    one = lists_of(CHANNELS[name](case.users, case.world, SETTINGS))[0]
    assert bool(one) == (name in ("u2i", "u2u2i", "popular", "cold"))


@every_channel
def test_no_users_give_no_lists(name):
    case = make_case(seed=15)
    assert len(CHANNELS[name](case.users.part(0, 0), case.world, SETTINGS)) == 0


@every_channel
def test_a_user_who_has_seen_everything_gets_nothing(name):
    case = make_case(seed=16, num_users=3)
    everything = Ragged.of([sorted(case.item_vectors)] * len(case.users))
    found = CHANNELS[name](replace(case.users, seen=everything), case.world, SETTINGS)
    assert lists_of(found) == [[]] * len(case.users)


@every_channel
def test_no_channel_pads_from_another(name):
    """Whatever else runs, or whatever the other channels find, a channel's list is the same: here the others' tables are emptied."""
    case = make_case(seed=17)
    full = lists_of(CHANNELS[name](case.users, case.world, SETTINGS))
    reads = {
        "u2i": ("items",),
        "u2u2i": ("items", "profiles"),
        "i2i": ("items", "similar_items"),
        "itemcf": ("items", "met_items", "clicks"),
    }
    reads |= {"popular": ("items", "clicks", "popular"), "cold": ("items", "new_items")}
    none = Ragged.empty(0)
    empty = {"similar_items": none, "met_items": none, "profiles": none, "popular": case.world.popular[:0]}
    alone = replace(case.world, **{table: nothing for table, nothing in empty.items() if table not in reads[name]})
    assert lists_of(CHANNELS[name](case.users, alone, SETTINGS)) == full


@pytest.mark.parametrize("name", ["u2i", "cold"])
@pytest.mark.parametrize("interests", [1, 2])
def test_p7_5_users_who_have_seen_nearly_everything_near_them_get_exact_lists(name, interests):
    """From nothing seen to all but the farthest items: as many searches as it takes, and the same as the formula."""
    case = make_case(seed=18, num_users=12, num_items=400, interests=interests, ties=False)
    everything = [
        [i for i, _ in TWINS["u2i"](replace(case, seen=[set()] * 12), user, SETTINGS.model_copy(update={"top": 400}))] for user in range(12)
    ]
    seen = [sorted(near[: 30 * user]) for user, near in enumerate(everything)]
    seen[5] = sorted(everything[5][20:])  # the nearest are left
    filtered = replace(case, users=replace(case.users, seen=Ragged.of(seen)), seen=[set(one) for one in seen])
    found = lists_of(CHANNELS[name](filtered.users, filtered.world, SETTINGS))
    close(found, [TWINS[name](filtered, user, SETTINGS) for user in range(12)])


def test_a_user_who_has_seen_much_costs_a_search_no_larger_than_needed():
    """20,000 of 30,000 items seen, none of them near: two searches' worth of rows is asked for, not 20,000."""
    rng = np.random.default_rng(19)
    vectors = rng.normal(size=(30_000, 4)).astype(np.float32)
    index, asked = flat_index(np.arange(30_000), vectors), []

    class Counting:
        def search(self, queries, num):
            asked.append(num)
            return index.searcher.search(queries, num)

    users = vectors[:2, None, :]
    order = np.argsort(-(index.vectors @ index.vectors[0]), kind="stable")
    seen = Ragged.of([sorted(order[10_000:].tolist()), [0, 1]])
    found = nearest_unseen(replace(index, searcher=Counting()), users, seen, 50)
    assert found.values[:50].tolist() == order[:50].tolist()
    assert found.lengths.tolist() == [50, 50]
    assert max(asked) <= 256
