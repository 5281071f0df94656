"""Mutual information: closed forms, and a slow twin that goes through every two fields value by value."""

import math
import random
from collections import Counter
from itertools import product

import numpy as np
import pytest

from conf.fields import Field
from conf.masks import correlated
from spark_jobs.mutual_information import Information, measure
from tests.spark_jobs.small_logs import shuffle_partitions

LN2 = math.log(2)
ID, ONE, TWO, THREE, MANY, MORE = (
    *(Field(name, "item", "single") for name in ("item_id", "one", "two", "three")),
    *(Field(name, "item", "multi") for name in ("many", "more")),
)
SCHEMA = "idx int, item_id int, one int, two int, three int, many array<int>, more array<int>"


def features(spark, rows):
    """rows: (one, two, three, many, more); idx and item_id by place."""
    return spark.createDataFrame([(n + 1, n + 4, *row) for n, row in enumerate(rows)], SCHEMA)


def slow(rows, max_values):
    """nats[x][y] of the five fields, x != y, by the formula; the entropies beside."""

    def shares(value):
        values = value[:10] if isinstance(value, list) else [value]
        return [(min(v, 4 + max_values), 1 / len(values)) for v in values] if values else [("missing", 1.0)]

    def joint(x, y):
        p = Counter()
        for row in rows:
            for (a, p_a), (b, p_b) in product(shares(row[x]), shares(row[y])):
                p[a, b] += p_a * p_b / len(rows)
        return p

    def margin(p, side):
        found = Counter()
        for pair, share in p.items():
            found[pair[side]] += share
        return found

    nats = np.zeros((5, 5))
    for x, y in product(range(5), range(5)):
        p = joint(x, y)
        p_x, p_y = margin(p, 0), margin(p, 1)
        if x == y:
            nats[x, y] = -sum(share * math.log(share) for share in p_x.values())
        else:
            nats[x, y] = sum(share * math.log(share / (p_x[a] * p_y[b])) for (a, b), share in p.items())
    return nats


def random_rows(seed, num):
    draw = random.Random(seed)

    def some(of_one):
        return [of_one % 5 + 4, *draw.choices(range(4, 30), k=draw.randrange(12))][: draw.choice([0, 1, 2, 3, 12])]

    rows = []
    for _ in range(num):
        one = draw.randrange(2, 9)
        rows.append((one, one % 3 + 4 if draw.random() < 0.8 else 2, draw.randrange(2, 5), some(one), some(draw.randrange(9))))
    return rows


@pytest.mark.parametrize("max_values", [3, pytest.param(10_000, marks=pytest.mark.slow)])
def test_equals_the_slow_twin_and_no_partitioning_changes_it(spark, max_values):  # P3.4
    rows = random_rows(max_values, 120)
    found = []
    for partitions in (1, 5):
        with shuffle_partitions(spark, partitions):
            df = features(spark, rows).repartition(partitions)
            found.append(measure(df, (ID, ONE, TWO, THREE, MANY, MORE), max_values=max_values))
    assert found[0].rows == len(rows)
    np.testing.assert_allclose(found[0].nats[1:, 1:], slow(rows, max_values), atol=1e-9)
    assert (found[0].nats == found[0].nats.T).all()
    assert (found[0].nats == found[1].nats).all()  # to the last bit
    # the id tells every other field: MI(id, f) = H(f), its own entropy is ln of the rows
    np.testing.assert_allclose(found[0].nats[0], [math.log(120), *np.diag(found[0].nats)[1:]], atol=1e-9)


def test_p3_2_and_p3_3_by_hand(spark):
    # one and two are equal, three tells nothing about them; two equally frequent values each
    rows = [(a, a, c, [], [7]) for a in (4, 5) for c in (4, 5)]
    found = measure(features(spark, rows), (ONE, TWO, THREE, MANY), max_values=10)
    assert found.fields == ("one", "two", "three", "many")
    np.testing.assert_allclose(found.nats, [[LN2, LN2, 0, 0], [LN2, LN2, 0, 0], [0, 0, LN2, 0], [0, 0, 0, 0]], atol=1e-10)
    assert found.nats[0, 1] == pytest.approx(0.693147, abs=1e-6)
    assert correlated(found.nats[:3, :3]) == (0b011, 0b011, 0b101)  # three: a tie of two zeros, the lower field


@pytest.mark.parametrize("fields", [(ID, ONE), *(pytest.param(few, marks=pytest.mark.slow) for few in ((), (ID,), (ONE,)))])
def test_few_fields(spark, fields):
    found = measure(features(spark, [(4, 4, 4, [], []), (5, 4, 4, [], [])]), fields, max_values=10)
    assert found.nats.shape == (len(fields), len(fields))
    assert found.rows == 2
    np.testing.assert_allclose(found.nats, np.full(found.nats.shape, LN2), atol=1e-10)


def test_nobody_clicked_anything(spark):
    found = measure(features(spark, []), (ID, ONE, MANY), max_values=10)
    assert (found.rows, found.nats.tolist()) == (0, [[0.0] * 3] * 3)


def test_normalised():
    nats = np.array([[4.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    found = Information(("a", "b", "c"), 9, nats)
    assert found.normalised("none") is nats
    assert found.normalised("min_entropy").tolist() == [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    assert found.normalised("sqrt").tolist() == [[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 0.0]]
