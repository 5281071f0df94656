"""The choice of a kind of index: measurements in, the kind and the reasons out."""

from dataclasses import replace

import pytest

from retrieval.index_choice import EXACT_ROWS, KINDS, Goals, Trial, lists, parts, ranked, reasons, scaled, worth_it

GOALS = Goals(min_recall=0.9, max_bytes=100_000_000)


def trial(kind, day_s, *, recall=0.95, size=1_000_000):
    return Trial(kind, kind.upper(), size, 8, recall, 1000.0, 1.0, day_s)


@pytest.mark.parametrize(("rows", "wanted"), [(0, 1), (60, 1), (1000, 25), (50_000, 1024), (1_000_000, 4096), (100_000_000, 32_768)])
def test_lists_grow_with_the_root_of_the_rows_and_stay_trainable(rows, wanted):
    assert lists(rows) == wanted


@pytest.mark.parametrize(("dim", "wanted"), [(64, 32), (50, 25), (7, 1), (1, 1), (9, 3)])
def test_product_codes_divide_the_width(dim, wanted):
    assert parts(dim) == wanted


def test_few_vectors_are_searched_exactly_and_nothing_is_compared():
    assert worth_it(EXACT_ROWS, 64, GOALS) == (["flat"], [])
    assert worth_it(EXACT_ROWS + 1, 64, GOALS) == (["flat", "ivf", "hnsw", "ivf_sq8"], [])


def test_kinds_that_cannot_fit_are_named_with_their_size_and_not_measured():
    """A million rows of width 64: Flat takes 256 MB, IVF 8 bytes a row more, links of a graph 256 more; codes 72 and 40 bytes a row."""
    kinds, large = worth_it(1_000_000, 64, GOALS)
    assert kinds == ["ivf_sq8"]
    assert {one.kind: one.bytes for one in large} == {"flat": 256_000_000, "ivf": 264_000_000, "hnsw": 512_000_000}
    kinds, large = worth_it(2_000_000, 64, GOALS)
    assert (kinds, [one.kind for one in large]) == (["ivf_pq"], ["flat", "ivf", "hnsw", "ivf_sq8"])
    assert worth_it(100, 64, Goals(0.9, 10))[0] == []  # too few to train product codes, whatever the memory


def test_a_sample_is_scaled_up_to_all_rows():
    """A tenth of the rows: ten times the size and the time to build; Flat and IVF answer a tenth as fast, HNSW as fast."""
    measured = Trial("ivf", "", 2_000_000, 16, 0.96, 5000.0, 1.5)
    whole = scaled(measured, sample=50_000, rows=500_000, dim=32, queries=10_000)
    assert whole == Trial("ivf", "IVF2048,Flat", 20_000_000, 16, 0.96, 500.0, 15.0, 35.0)
    graph = scaled(replace(measured, kind="hnsw"), sample=50_000, rows=500_000, dim=32, queries=10_000)
    assert (graph.factory, graph.queries_per_s, graph.day_s) == ("HNSW32", 5000.0, 17.0)


def test_the_fastest_that_meets_both_goals_is_taken():
    tried = [
        trial("flat", 90, recall=1.0, size=200_000_000),
        trial("ivf", 30),
        trial("hnsw", 5, recall=0.85),
        trial("ivf_sq8", 20),
    ]
    order = [one.kind for one in ranked(tried, GOALS)]
    assert order == ["ivf_sq8", "ivf"]
    assert reasons(tried, GOALS, taken="ivf_sq8", missed={}) == {
        "flat": "takes 200.0 MB, may take 100.0 MB",
        "ivf": "slower: 30.0 s for the day, 20.0 s",
        "hnsw": "recall 0.8500, want 0.9",
        "ivf_sq8": "taken",
    }


def test_of_those_nearly_as_fast_the_simplest_is_taken():
    tried = [trial("flat", 26), trial("ivf", 25), trial("hnsw", 20), trial("ivf_sq8", 24)]
    assert [one.kind for one in ranked(tried, GOALS)] == ["ivf", "hnsw", "ivf_sq8", "flat"]
    assert reasons(tried, GOALS, taken="ivf", missed={})["hnsw"] == "not much faster, and less simple"


def test_a_kind_that_misses_the_goal_on_all_vectors_is_told_so():
    tried = [trial("ivf", 30), trial("hnsw", 20)]
    assert reasons(tried, GOALS, taken="ivf", missed={"hnsw": 0.4})["hnsw"] == "recall 0.4000 on all vectors, want 0.9"


def test_nothing_meets_the_goals():
    tried = [trial("ivf", 30, recall=0.5, size=200_000_000), Trial("flat", "Flat", 300_000_000)]
    assert ranked(tried, GOALS) == []
    assert reasons(tried, GOALS, taken=None, missed={}) == {
        "ivf": "recall 0.5000, want 0.9; takes 200.0 MB, may take 100.0 MB",
        "flat": "takes 300.0 MB, may take 100.0 MB",
    }


def test_kinds_are_tried_from_the_simplest():
    assert list(KINDS) == ["flat", "ivf", "hnsw", "ivf_sq8", "ivf_pq"]
