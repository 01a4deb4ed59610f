"""The golden values of CC, in both of its forms, through the pure losses and through the class."""

import json
from pathlib import Path

import pytest
import torch

from kdzoo.distillers import build_distiller
from kdzoo.distillers.cc import cc_consecutive_loss, cc_loss
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, Setting, shapes_of

FILE = json.loads((Path(__file__).parent / "cc.json").read_text())
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
CASES = pytest.mark.parametrize("name", FILE["entries"])
PRECISIONS = pytest.mark.parametrize("dtype", TOLERANCE)


@pytest.fixture
def read(made):
    def find(name, dtype):
        entry = FILE["entries"][name]
        student, teacher = (made(FILE["inputs"][entry["inputs"][n]]).to(dtype) for n in ("fs", "ft"))
        return entry, student.requires_grad_(), teacher

    return find


def check(entry, loss, student):
    close = TOLERANCE[student.dtype]
    assert loss.dtype == student.dtype
    assert loss.item() == pytest.approx(entry["value"]["loss"], rel=close)
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.norm().item() == pytest.approx(entry["grad_norm"]["loss"]["fs"], rel=close)
    first = entry["grad_first4"]["fs"]
    scale = close * max(map(abs, first))
    assert gradient.flatten()[:4].tolist() == pytest.approx(first, rel=close, abs=scale)


@pytest.mark.parametrize("name", FILE["inputs"])
def test_generators_make_the_recorded_inputs(name, made):
    spec = FILE["inputs"][name]
    recorded = torch.tensor(spec["values"], dtype=torch.float64)
    torch.testing.assert_close(made(spec), recorded, rtol=1e-12, atol=1e-15)


@PRECISIONS
@CASES
def test_the_pure_losses(name, dtype, read):
    entry, student, teacher = read(name, dtype)
    loss = cc_consecutive_loss if name.endswith("consecutive") else cc_loss
    check(entry, loss(student, teacher, **entry["params"]), student)


@PRECISIONS
@CASES
def test_the_class_gives_the_same(name, dtype, read):
    entry, student, teacher = read(name, dtype)
    outputs = [ModelOutput(torch.zeros(6, 7), e) for e in (student, teacher)]
    setting = Setting(*map(shapes_of, outputs), None, 7, torch.arange(6))
    form = name.partition("_")[2] or "paper"
    options = {"form": form, "weight": 1, **entry["params"]}
    distiller = build_distiller("cc", setting, options).to(dtype)
    with torch.no_grad():
        # The file has no maps: these leave the embedding as it is, and add zeros.
        for parameter in distiller.parameters():
            torch.nn.init.eye_(parameter) if parameter.ndim == 2 else torch.nn.init.zeros_(parameter)
    guide = Guide(None, distiller.detached_digest(outputs[1]))
    batch = Batch(torch.empty(6, 0), torch.arange(6), None)
    check(entry, distiller(outputs[0], guide, batch, Progress(0, 200, 0, 1))["cc"], student)


def test_both_forms_are_here():
    assert set(FILE["entries"]) == {"cc", "cc_consecutive"}
