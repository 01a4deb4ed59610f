"""What a cohort keeps alive: one graph at a time, so methods cost their weights and not their activations."""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tinyzoo import EPOCHS, STEPS, Bench
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdzoo.data.pipeline import Pipeline
from kdzoo.data.views import Views
from kdzoo.distillers import build_distiller
from kdzoo.distillers.at import AT
from kdzoo.models import build_model, output_shapes
from kdzoo.outputs import ModelOutput, Setting
from kdzoo.sources import build_source
from kdzoo.training.cohort import Cohort
from kdzoo.training.member import Distillation, Member
from kdzoo.training.networks import SharedTeacher
from kdzoo.training.optimisers import build_optimizer


class Live(TorchDispatchMode):
    """Counts the bytes of all storages that operations make and that are still there, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._known:
                    self._known[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._gone, storage._cdata)
        self.peak = max(self.peak, self.now)
        return result

    def _gone(self, storage: int) -> None:
        self.now -= self._known.pop(storage)


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, num_classes=4, channels=1, size=32)


def peak_and_weights(methods: list[str]) -> tuple[int, int]:
    """Train a cohort for three steps; give its peak and the bytes of the members' weights and buffers."""
    images = Pipeline(
        np.random.default_rng(0).integers(0, 256, (96, 1, 32, 32), np.uint8), np.arange(96) % 4,
        views=Views(flip=True), mean=(0.5,), std=(0.25,), batch_size=32, seed=0, device="cpu",
    )  # fmt: skip
    teacher = SharedTeacher(network("resnet8"), "float32")
    shapes = [output_shapes(n, 1, 32) for n in (network("lenet5"), teacher.network)]
    setting = Setting(*shapes, None, 4, torch.arange(96) % 4)
    members, weights = [], 0
    for name in methods:
        student, distiller = network("lenet5"), build_distiller(name, setting)
        trained = [*student.parameters(), *distiller.parameters()]
        optimizer = build_optimizer(dict(type="SGD", lr=0.01, momentum=0.9), trained)
        source = "teacher" if "soft_labels" in distiller.needs else None
        members.append(Member(name, student, Distillation(distiller, "float32"), optimizer, 0, source))
        weights += sum(p.nbytes for p in trained) + sum(b.nbytes for b in student.buffers())
    source = build_source("teacher")
    source.fit(SimpleNamespace(teacher=teacher))
    cohort = Cohort(members, images, 1, teacher, {"teacher": source})
    with Live() as live:
        for step in range(3):
            cohort.train_step((0, step))
    return live.peak, weights


def test_the_count_sees_what_is_kept_and_what_is_let_go() -> None:
    with Live() as live:
        kept = torch.ones(1000) + 1
        for _ in range(5):
            torch.ones(3000) + 1
    assert 4000 <= live.now < 4200
    assert 28_000 <= live.peak < 29_000
    del kept


@pytest.mark.parametrize("name", ["kd", "at", "rkd"])
def test_a_method_more_costs_its_gradients_and_momentum_alone(name: str) -> None:
    (one, weights), (five, all_weights) = (peak_and_weights([name] * n) for n in (1, 5))
    more = all_weights - weights
    # Gradients and momentum are made in training, weights and buffers stood before; statistics are small.
    assert five - one <= 2 * more + 5 * 10_000
    # Activations of a single student are many times that, so a second graph would be seen.
    assert one > 3 * more


@pytest.mark.parametrize("teacher_bank", ["auto", "off"])
@pytest.mark.parametrize("methods", ["kd,at", "kd+ensemble:teachers=teacher/resnet14"])
def test_teachers_stages_are_gone_when_members_train(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, methods: str, teacher_bank: str
) -> None:
    made: list[weakref.ref[torch.Tensor]] = []
    left: list[int] = []
    run, train = SharedTeacher._forward, Member.step

    def forward(teacher: SharedTeacher, images: torch.Tensor) -> ModelOutput:
        output = run(teacher, images)
        made.extend(weakref.ref(stage) for stage in output.stages)
        return output

    def step(member: Member, *given: Any) -> None:
        if member.distiller is not None and member.distiller.needs & {"soft_labels", "stages"}:
            left.append(sum(stage() is not None for stage in made))
        train(member, *given)

    monkeypatch.setattr(SharedTeacher, "_forward", forward)
    monkeypatch.setattr(Member, "step", step)
    assert not bench.run(methods, teacher_bank=teacher_bank).failed
    assert len(made) >= 3 * EPOCHS * STEPS
    assert left == [0] * len(methods.split(",")) * EPOCHS * STEPS


def test_a_member_that_failed_keeps_nothing_of_its_step(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[weakref.ref[torch.Tensor]] = []
    left: list[int] = []
    train = Member.step

    def digest(distiller: Any, teacher: ModelOutput) -> dict[str, torch.Tensor]:
        seen.extend(weakref.ref(stage) for stage in teacher.stages)
        raise RuntimeError("a fault of this method")

    def step(member: Member, *given: Any) -> None:
        left.append(sum(stage() is not None for stage in seen))
        train(member, *given)

    monkeypatch.setattr(AT, "digest", digest)
    monkeypatch.setattr(Member, "step", step)
    results = bench.run("at,scratch")
    assert "a fault of this method" in str(results.failed["at, seed 0"])
    assert seen
    assert left[-1] == 0


def test_table_8_peaks_with_its_costliest_method() -> None:
    methods = ["scratch", "at", "kd", "fitnet", "kdsvd", "pkt", "rkd", "dkd"]
    alone = [peak_and_weights([name]) for name in methods]
    together, weights = peak_and_weights(methods)
    digests = 32 * 4 * sum((64 * 8 * 8, 32 * 16 * 16, 3 * 16 * 16, 64))
    assert together <= max(peak for peak, _ in alone) + 2 * weights + digests
