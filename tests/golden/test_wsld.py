"""The golden values of WSLD, through the pure loss and through the distiller with the label's term."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdzoo.distillers import build_distiller
from kdzoo.distillers.wsld import sample_weights, wsld_loss
from kdzoo.functional.divergences import cross_entropy
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, Setting, Shapes, SoftLabels, scores

FILE = json.loads((Path(__file__).parent / "wsld.json").read_text())
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
SETTING = Setting(Shapes((7,), None, None, None), None, None, 7, torch.zeros(6, dtype=torch.int64))


class Case:
    """An entry with its inputs in a precision; the student's logits take gradients."""

    def __init__(self, entry: dict[str, Any], inputs: dict[str, Tensor], dtype: torch.dtype) -> None:
        self.entry, params = entry, entry["params"]
        self.options = {"temperature": params["T"], "eps": params["eps"]}
        self.alpha = params["alpha"]
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
    soft = wsld_loss(case.student, case.soft_labels, case.labels, **case.options).mean()
    case.check("soft", soft)
    case.check("loss", cross_entropy(case.student, case.labels).mean() + case.alpha * soft)


@pytest.mark.parametrize("name", FILE["entries"])
def test_the_weights_of_the_samples(name, read):
    case = read(name)
    found = sample_weights(case.student, case.soft_labels, case.labels, eps=case.options["eps"])
    assert not found.requires_grad
    assert found.tolist() == pytest.approx(case.entry["weights"], rel=case.tolerance)


@pytest.mark.parametrize("name", FILE["entries"])
def test_the_class_with_its_label_term_gives_the_same(name, read):
    case = read(name)
    distiller = build_distiller("wsld", SETTING, case.options | {"alpha": case.alpha})
    batch, progress = Batch(torch.empty(6, 0), case.labels, None), Progress(0, 200, 0, 1)
    terms = distiller.terms(ModelOutput(case.student), Guide(case.soft_labels, {}), batch, progress)
    assert list(terms) == ["label", "wsld"]
    case.check("loss", terms["label"] + terms["wsld"])


@pytest.mark.parametrize("name", FILE["inputs"])
def test_generators_make_the_recorded_inputs(name, made):
    values = made(FILE["inputs"][name])
    recorded = torch.tensor(FILE["inputs"][name]["values"], dtype=values.dtype)
    torch.testing.assert_close(values, recorded, rtol=1e-12, atol=1e-15)


def test_all_entries_of_wsld_are_here():
    assert list(FILE["entries"]) == ["wsld", "wsld_eps"]
