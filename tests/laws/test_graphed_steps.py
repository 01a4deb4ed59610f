"""Laws 1, 3 and 5 where the device repeats steps: every number is the one of steps that run as they come.

On a CPU a tape stands for CUDA's graphs: it keeps operations and memory, and nothing of Python.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from mmengine.registry import OPTIMIZERS
from tape import TapeRecorder
from tinyzoo import Bench
from torch import Tensor

from kdzoo.distillers import Distiller
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, SoftLabels
from kdzoo.registry import DISTILLERS, SOURCES
from kdzoo.sources import Source
from kdzoo.training import session
from kdzoo.training.cohort import Cohort
from kdzoo.training.loop import CohortHook

METHODS = "scratch,kd,dkd,at,fitnet,pkt,rkd,kdsvd,reffakd,dkd+reffakd,noisy,diverging:epoch=1"
# Ten steps in an epoch, the last of them a short batch.
LONGER = 'data = dict(type="tiny", count=150)\n'


class Odd(Distiller):
    """Decides in Python what no graph can know."""

    needs = frozenset({"embedding"})
    acts: ClassVar[dict[str, str]] = {
        "step": "it reads the step's number",
        "unpack": "it reads the step's number",
        "counter": "it changes Odd.count in Python",
        "item": "it waits for the device",
        "nested": "it changes Odd.inner.0.count in Python",
        "bind": "it changes Odd._buffers in Python",
    }

    def __init__(self, *, act: str = "none") -> None:
        super().__init__()
        self.act, self.count = act, 0
        self.register_buffer("kept", torch.ones(()))
        # Two of a kind: what the first one changes is not hidden by the second.
        self.inner = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Identity())
        self.inner[0].count = self.inner[1].count = 0

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        factor: Any = 1.0
        if self.act == "step":
            factor = 1.0 + progress.step
        elif self.act == "unpack":
            factor = 1.0 + sum(progress)
        elif self.act == "counter":
            self.count += 1
            factor = self.count
        elif self.act == "nested":
            self.inner[0].count += 1
            factor = self.inner[0].count
        elif self.act == "item":
            factor = student.embedding.detach().mean().item()
        elif self.act == "bind":
            self.kept = self.kept * 0.9
            factor = self.kept
        elif self.act == "late" and progress.epoch > 1:
            factor = 1.0 + progress.step
        elif self.act == "writer" and progress.epoch > 1:
            guide.teacher["embedding"].mul_(0.5)
        return {"odd": factor * (student.embedding - guide.teacher["embedding"].mean()).square().mean()}


class Numbered:
    """Soft labels that tell each step's number."""

    def __init__(self, logits: Tensor, number: int) -> None:
        self.logits, self.number = logits, number

    def log_probs(self, temperature: float) -> Tensor:
        return (self.logits / temperature).log_softmax(dim=1)


class Locked(Numbered):
    """Soft labels that hold what nobody can copy."""

    def __init__(self, logits: Tensor, number: int) -> None:
        super().__init__(logits, 0)
        self.lock = threading.Lock()


class Twofold(Numbered):
    """Soft labels of two tensors that are one at first."""

    def __init__(self, logits: Tensor, number: int) -> None:
        super().__init__(logits, 0)
        self.other = logits if number < 12 else -logits

    def log_probs(self, temperature: float) -> Tensor:
        return ((self.logits + 0.5 * self.other) / temperature).log_softmax(dim=1)


class Strange(Source):
    """Gives soft labels of a kind of its own."""

    def __init__(self, *, kind: Literal["numbered", "locked", "twofold"] = "numbered") -> None:
        self.kind = {"numbered": Numbered, "locked": Locked, "twofold": Twofold}[kind]
        self.number = 0

    def __call__(self, batch: Batch) -> SoftLabels:
        self.number += 1
        return self.kind(torch.eye(4)[batch.labels], self.number)


@pytest.fixture
def bench(zoo: None, tmp_path: Path) -> Any:
    DISTILLERS.register("odd")(Odd)
    SOURCES.register("strange")(Strange)
    yield Bench(tmp_path, LONGER)
    DISTILLERS._module_dict.pop("odd")
    SOURCES._module_dict.pop("strange")


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Cohort]:
    """Repeat steps by a tape; gives the cohorts of students."""
    cohorts: list[Cohort] = []
    real = session.Session._cohort

    def cohort(self: Any, *given: Any) -> Any:
        made = real(self, *given)
        cohorts.append(made[0])
        return made

    def recorder(self: Any) -> TapeRecorder:
        return TapeRecorder()

    monkeypatch.setattr(session.Session, "_cohort", cohort)
    monkeypatch.setattr(session.Session, "_recorder", recorder)
    # As --cuda-graphs on does; the tiny student comes from outside.
    monkeypatch.setattr(session.Session, "_from_outside", lambda self, planned: False)
    return cohorts


def told(cohorts: list[Cohort]) -> dict[str, tuple[int, str | None]]:
    members = [m for cohort in cohorts for m in cohort.members]
    return {m.name: (m.graphed.repeated, m.graphed.reason) for m in members if m.graphed is not None}


def test_every_number_is_that_of_steps_that_run_as_they_come(bench: Bench, request: Any) -> None:
    assert not bench.run(METHODS, epochs=4).failed
    cohorts = request.getfixturevalue("graphs")
    assert not bench.run(METHODS, work="graphed", epochs=4).failed
    whole, graphed = bench.contents(), bench.contents("graphed")
    assert [member for member in whole if whole[member] != graphed[member]] == []
    assert len(whole) == len(METHODS.split(","))
    steps = told(cohorts)
    # Of ten steps in each of four epochs two are taken to look, and the short ones run as they come.
    assert steps["kd"] == steps["dkd"] == steps["noisy"] == steps["fitnet"] == (4 * 9 - 2, None)
    assert steps["diverging:epoch=1"] == (9 - 2 + 9, None)


def test_members_are_the_same_alone_and_resumed(
    bench: Bench, graphs: list[Cohort], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run("kd,dkd,noisy", epochs=3)
    whole = bench.contents()
    bench.run("noisy", work="alone", epochs=3)
    assert bench.contents("alone")["noisy", 0] == whole["noisy", 0]

    after = CohortHook.after_train_iter

    def interrupted(self: CohortHook, runner: Any, batch_idx: int, *rest: Any, **more: Any) -> None:
        after(self, runner, batch_idx, *rest, **more)
        if self._cohort.teacher is not None and runner.epoch == 1 and batch_idx == 5:
            self._save(session.Position(1, 6))
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CohortHook, "after_train_iter", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bench.run("kd,dkd,noisy", work="resumed", epochs=3)
    bench.run("kd,dkd,noisy", work="resumed", epochs=3)
    assert bench.contents("resumed") == whole


@pytest.mark.parametrize(
    "changes",
    [
        'recipe["optimizer"] = dict(type="AdamW", lr=1e-3)\n',
        'recipe["param_scheduler"] = [dict(type="OneCycleLR", eta_max=0.05, total_steps=4, '
        "convert_to_iter_based=True)]\n",
    ],
    ids=["optimizer that counts", "rate of every step"],
)
def test_the_optimizer_stays_outside_where_it_must(
    bench: Bench, request: Any, tmp_path: Path, changes: str
) -> None:
    bench = Bench(tmp_path, LONGER + changes)
    bench.run("kd,dkd", epochs=4)
    cohorts = request.getfixturevalue("graphs")
    before = TapeRecorder.recorded
    bench.run("kd,dkd", work="graphed", epochs=4)
    assert bench.contents("graphed") == bench.contents()
    assert told(cohorts)["kd"] == (4 * 9 - 2, None)
    # Not one for every step.
    assert TapeRecorder.recorded - before < 30


def test_what_python_decides_runs_as_it_comes(bench: Bench, request: Any) -> None:
    acts = [*Odd.acts, "late", "writer"]
    methods = ",".join(["scratch", *(f"odd:act={act}" for act in acts)])
    first = bench.run(methods, epochs=4)
    cohorts = request.getfixturevalue("graphs")
    second = bench.run(methods, work="graphed", epochs=4)
    assert len(bench.contents()) == len(acts)
    assert bench.contents("graphed") == bench.contents()
    # Who writes into what all share is found as ever.
    assert first.failed.keys() == second.failed.keys() == {"odd:act=writer, seed 0"}
    found = told(cohorts)
    assert {act: found[f"odd:act={act}"] for act in Odd.acts} == {
        act: (0, reason) for act, reason in Odd.acts.items()
    }
    for act, reason in (
        ("late", "it reads the step's number"),
        ("writer", "it writes into what it is given"),
    ):
        repeated, why = found[f"odd:act={act}"]
        assert repeated > 9
        assert why == reason
    assert found["scratch"] == (4 * 9 - 2, None)


class Late(Distiller):
    """Has a part that learns from the second epoch on alone."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(4, 4)

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        logits = self.head(student.logits) if progress.epoch > 0 else student.logits
        return {"late": logits.square().mean()}


class Keeping(torch.optim.SGD):
    """Keeps each gradient, and takes the last one along."""

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                last = self.state[parameter].get("last")
                self.state[parameter]["last"] = parameter.grad
                parameter.data -= 0.01 * (parameter.grad if last is None else parameter.grad + last)


@pytest.mark.parametrize("changes", ["", 'recipe["optimizer"] = dict(type="AdamW", lr=1e-3)\n'])
@pytest.mark.parametrize("count", [150, 40])
def test_parts_that_learn_late_learn_alike(
    bench: Bench, request: Any, tmp_path: Path, changes: str, count: int
) -> None:
    """Their optimizer has no state yet when the step is recorded."""
    DISTILLERS.register("late")(Late)
    try:
        bench = Bench(tmp_path, f'data = dict(type="tiny", count={count})\n' + changes)
        assert not bench.run("late,kd", epochs=4).failed
        cohorts = request.getfixturevalue("graphs")
        assert not bench.run("late,kd", work="graphed", epochs=4).failed
    finally:
        DISTILLERS._module_dict.pop("late")
    assert bench.contents("graphed") == bench.contents()
    if not changes:
        assert told(cohorts)["late"][1] == "a parameter of it learns only now"
    assert told(cohorts)["kd"][1] is None


def test_an_optimizer_from_elsewhere_runs_as_it_comes(bench: Bench, request: Any, tmp_path: Path) -> None:
    OPTIMIZERS.register_module(name="Keeping", module=Keeping)
    try:
        bench = Bench(tmp_path, LONGER + 'recipe["optimizer"] = dict(type="Keeping", lr=0.05)\n')
        bench.run("kd", epochs=2)
        cohorts = request.getfixturevalue("graphs")
        bench.run("kd", work="graphed", epochs=2)
    finally:
        OPTIMIZERS._module_dict.pop("Keeping")
    assert bench.contents("graphed") == bench.contents()
    assert told(cohorts) == {"kd": (0, "its optimizer is none of torch's")}


def test_what_comes_from_outside_is_recorded_only_if_it_is_asked_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohorts: list[Cohort] = []
    real = Cohort.close
    monkeypatch.setattr(Cohort, "close", lambda self: (cohorts.append(self), real(self)))
    monkeypatch.setattr(session.Session, "_recorder", lambda self: TapeRecorder())
    bench.run("kd,noisy,kd+strange", student="lenet5", teacher="resnet8")
    outside = (0, "it comes from outside: --cuda-graphs on records it, too")
    found = told(cohorts[-1:])
    assert found["noisy"] == found["kd+strange"] == outside
    assert found["kd"][1] is None
    bench.run("scratch", work="own")
    assert told(cohorts[-1:]) == {"scratch": outside}


class Wrong(TapeRecorder):
    """Repeats a little too much."""

    def record(self, function: Any) -> Any:
        (sums, gradients), repeat = super().record(function)

        def again() -> None:
            repeat()
            sums[1][0] += 1e-6

        return (sums, gradients), again


def test_a_graph_that_gives_other_numbers_is_not_used(
    bench: Bench, graphs: list[Cohort], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run("kd,noisy", work="graphed", epochs=2)
    monkeypatch.setattr(session.Session, "_recorder", lambda self: Wrong())
    assert not bench.run("kd,noisy", epochs=2).failed
    assert bench.contents() == bench.contents("graphed")
    assert set(told(graphs[1:]).values()) == {(0, "a graph of it gives other numbers")}


def test_soft_labels_of_any_kind_are_taken(bench: Bench, request: Any) -> None:
    methods = "kd+strange,dkd+strange:kind=locked,kd+strange:kind=twofold"
    bench.run(methods, epochs=3)
    cohorts = request.getfixturevalue("graphs")
    bench.run(methods, work="graphed", epochs=3)
    assert len(bench.contents()) == 3
    assert bench.contents("graphed") == bench.contents()
    found = told(cohorts)
    assert found["kd+strange:kind=twofold"][0] > 5
    assert found["kd+strange"] == (0, "what it is given differs from step to step")
    assert found["dkd+strange:kind=locked"][0] == 0
    assert found["dkd+strange:kind=locked"][1].startswith("what it reads cannot be copied: ")
