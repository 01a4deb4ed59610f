"""Law 1: a member's numbers are the same alone, with others, in another order, under another spelling."""

from collections.abc import Callable

import pytest
from tinyzoo import Bench
from torch import Tensor

from kdzoo.distillers.at import AT
from kdzoo.functional.stages import StagePair
from kdzoo.outputs import ModelOutput
from kdzoo.registry import DISTILLERS


@pytest.mark.parametrize(
    ("methods", "canonical"),
    [
        ("kd+teacher", "kd"),
        ("dkd", "dkd"),
        ("scratch", "scratch"),
        ("kd+reffakd", "reffakd"),
        ("dkd+reffakd", "dkd+reffakd"),
        ("kd+uniform", "kd+uniform"),
        ("noisy", "noisy"),
    ],
)
def test_member_is_equal_alone_and_in_a_cohort(
    bench: Bench, same: Callable[..., None], methods: str, canonical: str
) -> None:
    bench.run(methods)
    same(bench)
    assert list(bench.contents()) == [(canonical, 0)]


def test_order_of_the_members_changes_nothing(bench: Bench, same: Callable[..., None]) -> None:
    bench.run("noisy,kd:alpha=0.9,dkd+reffakd,scratch,dkd+teacher,reffakd")
    same(bench)
    assert len(bench.contents()) == 6


def test_spellings_of_one_method_are_one_member(bench: Bench) -> None:
    results = bench.run(
        "kd,kd+teacher,kd:alpha=0.9,kd:temperature=4.0:alpha=9e-1,reffakd,kd+reffakd,reffakd:per_class=40"
    )
    assert [r.method for r in results.records] == ["kd", "reffakd"]
    assert len(bench.contents()) == 2


def test_seeds_do_not_touch_each_other(bench: Bench, same: Callable[..., None]) -> None:
    bench.run("kd,noisy", seeds="1,0")
    found = bench.contents()
    bench.run("noisy", seeds=[1], work="alone")
    assert bench.contents("alone")["noisy", 1] == found["noisy", 1]
    assert found["noisy", 0][1] != found["noisy", 1][1]
    bench.run("kd,noisy", work="first")
    same(bench, "first")


class Squared(AT):
    """Inherits a digest, and changes what it is made of."""

    def _map(self, output: ModelOutput, stage: int, pair: StagePair) -> Tensor:
        return super()._map(output, stage, pair) ** 2


def test_a_method_that_inherits_a_digest_has_one_of_its_own(bench: Bench) -> None:
    DISTILLERS.register("squared")(Squared)
    try:
        bench.run("squared", work="alone", epochs=1)
        bench.run("at,squared", work="together", epochs=1)
    finally:
        DISTILLERS._module_dict.pop("squared")
    alone, together = (bench.contents(work)["squared", 0] for work in ("alone", "together"))
    assert alone == together


@pytest.mark.parametrize("methods", ["kd~noisy", "at~kd+reffakd", "crd~kd", "ctkd~fitnet~pkt"])
def test_sums_are_equal_alone_and_in_a_cohort(bench: Bench, methods: str) -> None:
    bench.run(f"at,{methods},noisy,pkt")
    bench.run(methods, work="alone")
    assert bench.contents("alone")[methods, 0] == bench.contents()[methods, 0]
