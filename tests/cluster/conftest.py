"""The cluster that a module's tests share."""

from collections.abc import Iterator

import pytest

from tests.cluster.standalone import Cluster, standalone


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with standalone(tmp_path_factory.mktemp("cluster")) as started:
        yield started
