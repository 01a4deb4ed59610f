"""The golden values of NKD, through the pure loss and through the distiller."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdzoo.distillers import build_distiller
from kdzoo.distillers.nkd import nkd_loss
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, Setting, Shapes, SoftLabels, scores

FILE = json.loads((Path(__file__).parent / "nkd.json").read_text())
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
SETTING = Setting(Shapes((7,), None, None, None), None, None, 7, torch.zeros(6, dtype=torch.int64))


class Case:
    """An entry with its inputs in a precision; the student's logits take gradients."""

    def __init__(self, entry: dict[str, Any], inputs: dict[str, Tensor], dtype: torch.dtype) -> None:
        self.entry, self.options = entry, {"gamma": entry["params"]["gamma"]}
        self.options["temperature"] = entry["params"]["T"]
        self.tolerance, self.labels = TOLERANCE[dtype], inputs["y"]
        self.student = inputs["s"].to(dtype).requires_grad_()
        self.soft_labels: SoftLabels = scores(inputs["t"].to(dtype))

    def check(self, part: str, loss: Tensor) -> None:
        (gradient,) = torch.autograd.grad(loss, self.student, retain_graph=True)
        assert loss.dtype == self.student.dtype
        assert loss.item() == pytest.approx(self.entry["value"][part], rel=self.tolerance)
        assert gradient.norm().item() == pytest.approx(self.entry["grad_norm"][part]["s"], rel=self.tolerance)
        if part == "loss":
            first = self.entry["grad_first4"]["s"]
            close = {"rel": self.tolerance, "abs": self.tolerance * max(map(abs, first))}
            assert gradient.flatten()[:4].tolist() == pytest.approx(first, **close)


@pytest.fixture(params=[torch.float64, torch.float32], ids=str)
def read(request, made) -> Callable[[str], Case]:
    def find(name: str) -> Case:
        entry = FILE["entries"][name]
        return Case(entry, {k: made(FILE["inputs"][v]) for k, v in entry["inputs"].items()}, request.param)

    return find


@pytest.mark.parametrize("name", FILE["entries"])
def test_every_named_part_of_the_pure_loss(name, read):
    case = read(name)

    def loss(gamma: float) -> Tensor:
        options = case.options | {"gamma": gamma}
        return nkd_loss(case.student, case.soft_labels, case.labels, **options).mean()

    case.check("target", loss(0.0))
    case.check("nontarget", loss(1.0) - loss(0.0))
    case.check("loss", loss(case.options["gamma"]))


@pytest.mark.parametrize("name", FILE["entries"])
def test_the_class_gives_the_same(name, read):
    case = read(name)
    distiller = build_distiller("nkd", SETTING, case.options)
    batch = Batch(torch.empty(6, 0), case.labels, None)
    terms = distiller(ModelOutput(case.student), Guide(case.soft_labels, {}), batch, Progress(0, 200, 0, 1))
    case.check("loss", terms["nkd"])


@pytest.mark.parametrize("name", FILE["inputs"])
def test_generators_make_the_recorded_inputs(name, made):
    values = made(FILE["inputs"][name])
    recorded = torch.tensor(FILE["inputs"][name]["values"], dtype=values.dtype)
    torch.testing.assert_close(values, recorded, rtol=1e-12, atol=1e-15)


def test_all_entries_of_nkd_are_here():
    assert list(FILE["entries"]) == ["nkd", "nkd_T3"]
