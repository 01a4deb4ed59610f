"""Law 2: every draw is a function of what it is for; global generators do not matter and stay."""

import multiprocessing
import random
import resource
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from tinyzoo import EPOCHS, STEPS, Bench, Spy, TinyStudent

from kdzoo.outputs import Batch, Progress
from kdzoo.training import session
from kdzoo.training.cohort import Cohort


@pytest.fixture
def positions() -> Iterator[Callable[[], list[object]]]:
    """A function that tells where the global generators are; they are put back afterwards."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()

    def tell() -> list[object]:
        kind, keys, *rest = np.random.get_state()
        return [torch.get_rng_state().tolist(), kind, list(keys), rest, random.getstate()]

    yield tell
    torch.set_rng_state(before[0])
    np.random.set_state(before[1])
    random.setstate(before[2])


@pytest.fixture
def seen() -> Iterator[list[tuple[Progress, Batch, torch.Tensor]]]:
    Spy.seen.clear()
    yield Spy.seen
    Spy.seen.clear()


@pytest.fixture
def masks() -> Iterator[list[torch.Tensor]]:
    TinyStudent.masks = []
    yield TinyStudent.masks
    TinyStudent.masks = None


@pytest.mark.parametrize("seed", [1, 12345])
def test_position_of_the_global_generators_does_not_matter_and_stays(
    bench: Bench, same: Callable[..., None], positions: Callable[[], list[object]], seed: int
) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    before = positions()
    bench.run("noisy,kd,reffakd")
    assert positions() == before
    same(bench)


def test_method_that_sets_the_global_generators_disturbs_nobody(
    bench: Bench, same: Callable[..., None], together: dict, positions: Callable[[], list[object]]
) -> None:
    bench.run("meddler,noisy,scratch,kd+uniform")
    found = bench.contents()
    assert found.pop(("meddler", 0))
    assert found == {name: together[name] for name in found}


def test_methods_of_a_seed_share_weights_order_views_and_masks(
    bench: Bench, seen: list[tuple[Progress, Batch, torch.Tensor]], masks: list[torch.Tensor]
) -> None:
    """The first step has the same logits for all, because weights, views and masks are the same."""
    bench.run("spy,noisy,spy:name=1,dkd+uniform", epochs=EPOCHS)
    one, other = seen[0::2], seen[1::2]
    assert len(one) == EPOCHS * STEPS
    for (_, first, logits), (_, second, others) in zip(one, other, strict=True):
        assert torch.equal(first.images, second.images)
        assert torch.equal(first.labels, second.labels)
        assert torch.equal(logits, others)
    members = [masks[i::4] for i in range(4)]
    assert len(members[0]) == EPOCHS * STEPS
    for step in zip(*members, strict=True):
        assert all(torch.equal(step[0], mask) for mask in step[1:])
    assert not torch.equal(members[0][0], members[0][1])


def test_initial_weights_are_the_same_for_every_method_and_differ_between_seeds(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: dict[str, dict[str, torch.Tensor]] = {}
    real = session.train

    def peek(cohort: Cohort, training: session.Training) -> None:
        for member in cohort.members:
            state = {k: v.clone() for k, v in member.network.state_dict().items()}
            weights[f"{member.name} {member._seed}"] = state
        real(cohort, training)

    monkeypatch.setattr(session, "train", peek)
    bench.run("scratch,kd,noisy", seeds=2, epochs=1)
    bench.run("dkd+uniform", epochs=1, work="later")
    first = weights["scratch 0"]
    for name in ("kd 0", "noisy 0", "dkd+uniform 0"):
        assert all(torch.equal(v, weights[name][k]) for k, v in first.items()), name
    assert not torch.equal(first["classifier.weight"], weights["kd 1"]["classifier.weight"])


def test_seed_zero_epoch_one_is_not_seed_one_epoch_zero(
    bench: Bench, seen: list[tuple[Progress, Batch, torch.Tensor]], masks: list[torch.Tensor]
) -> None:
    bench.run("spy", seeds=2)
    batches = [batch for _, batch, _ in seen]
    epochs = [batches[i : i + STEPS] for i in range(0, len(batches), STEPS)]
    orders = [torch.cat([batch.indices for batch in epoch]) for epoch in epochs]
    # In the order of the samples, so that nothing but the views can differ.
    views = [
        torch.cat([batch.images for batch in epoch])[order.argsort()]
        for epoch, order in zip(epochs, orders, strict=True)
    ]
    assert len(epochs) == 2 * EPOCHS
    for i in range(len(epochs)):
        for j in range(i):
            assert orders[i].tolist() != orders[j].tolist()
            assert not torch.equal(views[i], views[j])
            assert not torch.equal(masks[STEPS * i], masks[STEPS * j])


def test_views_of_a_sample_do_not_depend_on_batch_size_or_method(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same images come in both cases, each with its view; only the batches are cut elsewhere."""
    found = []
    for size in (16, 7):
        batches: list[Batch] = []

        def keep(
            cohort: Cohort, data: tuple[int, int], optim_wrapper: object = None, into: list = batches
        ) -> dict:
            into.append(cohort.images.batch(*data))
            return {}

        monkeypatch.setattr(Cohort, "train_step", keep)
        with pytest.MonkeyPatch.context() as patch:
            # Nothing is trained here, so there is nothing to judge or to record.
            patch.setattr("kdzoo.training.loop.CohortHook.after_train_epoch", lambda self, runner: None)
            patch.setattr(session.Session, "_finish", lambda *arguments: None)
            bench.run("scratch", work=f"of{size}", cfg_options={"recipe.batch_size": size})
        found.append(torch.cat([b.images for b in batches]))
    assert len(found[0]) == EPOCHS * 40
    assert torch.equal(*found)


@pytest.mark.parametrize("method", ["kd+rough:act=draw", "careless:act=draw"])
def test_draws_of_sources_and_digests_are_keyed(bench: Bench, method: str) -> None:
    torch.manual_seed(1)
    bench.run(f"{method},kd", work="first")
    torch.manual_seed(2)
    bench.run(f"scratch,kd,{method}", work="second")
    first, second = bench.contents("first"), bench.contents("second")
    assert first == {name: second[name] for name in first}


def test_precision_of_products_in_the_callers_process_does_not_matter(bench: Bench, together: dict) -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        bench.run("kd,noisy")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert bench.contents() == {(name, 0): together[name, 0] for name in ("kd", "noisy")}


def test_process_is_left_as_it_was(bench: Bench) -> None:
    before = multiprocessing.get_start_method(allow_none=True), resource.getrlimit(resource.RLIMIT_NOFILE)
    bench.run("scratch")
    after = multiprocessing.get_start_method(allow_none=True), resource.getrlimit(resource.RLIMIT_NOFILE)
    assert after == before
