"""The golden values of SP, through the pure loss and the distiller."""

import json
from pathlib import Path

import pytest
import torch

from kdzoo.distillers import build_distiller
from kdzoo.distillers.sp import sp_loss
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, Setting, shapes_of

FILE = json.loads((Path(__file__).parent / "sp.json").read_text())
DTYPES = [torch.float64, torch.float32]


def pure(student, teacher):
    return sp_loss(student, teacher)


def through_the_class(student, teacher):
    outputs = [ModelOutput(torch.zeros(len(s), 7), None, (s,)) for s in (student, teacher)]
    labels = torch.arange(len(student))
    setting = Setting(*map(shapes_of, outputs), None, 7, labels)
    distiller = build_distiller("sp", setting, {"weight": 1})
    guide = Guide(None, distiller.detached_digest(outputs[1]))
    batch = Batch(torch.empty(len(labels), 0), labels, None)
    return distiller(outputs[0], guide, batch, Progress(0, 200, 0, 1))["sp"]


@pytest.mark.parametrize("name", FILE["inputs"])
def test_the_generator_makes_the_recorded_input(name, made):
    spec = FILE["inputs"][name]
    values = made(spec).flatten()
    assert values[:3].tolist() == pytest.approx(spec["first3"], rel=1e-12)
    assert [values[-1].item(), values.sum().item()] == pytest.approx([spec["last"], spec["sum"]], rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", [pure, through_the_class])
@pytest.mark.parametrize("name", FILE["entries"])
def test_value_and_gradient(name, loss, dtype, made):
    entry = FILE["entries"][name]
    student, teacher = (made(FILE["inputs"][entry["inputs"][n]]).to(dtype) for n in ("fs", "ft"))
    close = {"rel": entry["rel_tol"] if dtype == torch.float64 else 1e-4}
    found = loss(student.requires_grad_(), teacher)
    (gradient,) = torch.autograd.grad(found, student)
    assert found.dtype == dtype
    assert entry["value"].keys() == {"loss"}
    assert found.item() == pytest.approx(entry["value"]["loss"], **close)
    assert gradient.norm().item() == pytest.approx(entry["grad_norm"]["loss"]["fs"], **close)
    first = entry["grad_first4"]["fs"]
    limit = close["rel"] * max(map(abs, first))
    assert gradient.flatten()[:4].tolist() == pytest.approx(first, **close, abs=limit)
