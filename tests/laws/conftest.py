"""The laws' tests all work with the tiny zoo."""

from collections.abc import Callable
from typing import Any

import pytest
from tinyzoo import Bench, registered

Contents = dict[tuple[str, int], tuple[dict[str, Any], bytes]]
METHODS = "scratch,kd,dkd,reffakd,dkd+reffakd,kd+uniform,noisy"


@pytest.fixture(scope="session")
def together(tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """What every method gives when all are trained in one cohort, undisturbed."""
    with registered():
        bench = Bench(tmp_path_factory.mktemp("together"))
        assert not bench.run(METHODS).failed
    return bench.contents()


@pytest.fixture
def same(together: Contents) -> Callable[[Bench], None]:
    """A function that holds a work directory's members against the undisturbed ones, bit for bit."""

    def compare(bench: Bench, work: str = "work", expected: Contents = together) -> None:
        found = bench.contents(work)
        assert found
        for name, (record, weights) in found.items():
            assert record == expected[name][0], name
            assert weights == expected[name][1], name

    return compare
