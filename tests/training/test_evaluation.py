import contextlib
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdzoo.outputs import ModelOutput
from kdzoo.training.evaluation import CHUNK, classification_metrics, evaluate, observe


def ranks(row: list[float]) -> list[int]:
    return sorted(range(len(row)), key=lambda k: -row[k])


def by_hand(logits, labels, reference) -> dict[str, float]:
    """Every number in a loop over the samples."""
    count = len(labels)
    top1 = top5 = nll = agreement = 0.0
    for row, label, other in zip(logits, labels, reference, strict=True):
        top1 += ranks(row)[0] == label
        top5 += label in ranks(row)[:5]
        nll += math.log(sum(math.exp(z) for z in row)) - row[label]
        agreement += ranks(row)[0] == ranks(other)[0]
    percent = 100 / count
    return {
        "top1": percent * top1,
        "top5": percent * top5,
        "nll": nll / count,
        "agreement": percent * agreement,
    }


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(2, 12))
def test_metrics_are_those_of_plain_loops(seed, count, classes):
    generator = torch.Generator().manual_seed(seed)
    logits, reference = (3 * torch.randn(count, classes, generator=generator) for _ in range(2))
    labels = torch.randint(classes, (count,), generator=generator)
    found = classification_metrics(logits, labels, reference)
    expected = by_hand(logits.tolist(), labels.tolist(), reference.tolist())
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    assert set(found) == {"top1", "top5", "nll", "ece", "agreement"}
    assert 0 <= found["ece"] <= 100
    assert all(type(value) is float for value in found.values())


def test_without_a_teacher_there_is_no_agreement():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert set(classification_metrics(logits, torch.tensor([0, 1, 2, 0]), None)) == {
        "top1",
        "top5",
        "nll",
        "ece",
    }


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_top5_of_fewer_classes_is_all(classes):
    logits = torch.randn(8, classes, generator=torch.Generator().manual_seed(0))
    found = classification_metrics(logits, torch.arange(8) % classes, None)
    assert found["top5"] == 100
    assert found["top1"] < 100


def test_calibration_is_told_in_percent():
    logits = torch.tensor([[100.0, 0.0], [100.0, 0.0]])
    assert classification_metrics(logits, torch.tensor([0, 1]), None)["ece"] == 50


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_none(wrong):
    logits = torch.zeros(3, 4)
    logits[1] = wrong
    found = classification_metrics(logits, torch.tensor([0, 1, 2]), torch.zeros(3, 4))
    assert found["nll"] is None
    assert found["ece"] is None


def test_huge_logits_are_numbers():
    found = classification_metrics(torch.tensor([[1e4, -1e4]]), torch.tensor([1]), None)
    assert found == {"top1": 0, "top5": 100, "nll": 2e4, "ece": 100}


class FakeMember:
    """Its objective keeps what it is told to see of the images."""

    def __init__(self, factor: float, uses_teacher: bool) -> None:
        self.network, self.uses_teacher, self.seconds = factor, uses_teacher, 0.0
        self.objective = self
        self.fault = None
        self.setting_aside = contextlib.nullcontext
        self.modes: list[bool] = []
        self.judged: list[object] = []

    def train_mode(self, training: bool) -> None:
        self.modes.append(training)

    def observe(self, network, images, labels):
        assert self.modes == [False]
        assert not torch.is_grad_enabled()
        return ModelOutput(network * images).logits

    def metrics(self, observed, labels, reference):
        self.judged.append(reference)
        return {"sum": observed.sum().item()}


class FakePipeline:
    size = 32

    def __init__(self, count: int) -> None:
        self.images = torch.arange(float(count))[:, None]
        self.labels = torch.zeros(count, dtype=torch.int64)
        self.asked: list[int] = []

    def chunks(self, size):
        self.asked.append(size)
        yield from zip(self.images.split(4), self.labels.split(4), strict=True)


def test_one_pass_over_the_images_serves_all_members():
    members, images = [FakeMember(1.0, True), FakeMember(2.0, False)], FakePipeline(10)
    kept = observe(members, images)
    assert images.asked == [CHUNK]
    for member, own in zip(members, kept, strict=True):
        assert torch.equal(own, member.network * images.images)
        assert member.modes == [False, True]
        assert member.seconds > 0


def test_only_who_uses_the_teacher_is_compared_with_it():
    members = [FakeMember(1.0, True), FakeMember(2.0, False)]
    reference = torch.zeros(10, 1)
    splits = {
        "test": FakePipeline(10),
        "validation": SimpleNamespace(size=32, chunks=FakePipeline(3).chunks, labels=None),
    }
    for member in members:
        member.train_mode = lambda training, m=member: m.modes.__setitem__(slice(None), [training])
    found = evaluate(members, splits, {"test": reference})
    assert found == [{"test": {"sum": 45.0}, "validation": {"sum": 3.0}},
                     {"test": {"sum": 90.0}, "validation": {"sum": 6.0}}]  # fmt: skip
    assert members[0].judged == [reference, None]
    assert members[1].judged == [None, None]
