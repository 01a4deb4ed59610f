"""The golden values of MLKD's three parts, through the pure losses and through the class."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kdzoo.distillers.mlkd import MLKD, mlkd_batch_loss, mlkd_class_loss, mlkd_instance_loss
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, scores

FILE = json.loads((Path(__file__).parent / "mlkd.json").read_text())
(ENTRY,) = FILE["entries"].values()
TEMPERATURE = ENTRY["params"]["T"]
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}


@pytest.fixture(params=list(TOLERANCE))
def inputs(request, made) -> tuple[Tensor, Tensor]:
    student, teacher = (made(FILE["inputs"][ENTRY["inputs"][key]]).to(request.param) for key in "st")
    return student.requires_grad_(), teacher


def check(student: Tensor, parts: dict[str, Tensor]) -> None:
    """Compare values, norms of gradients, and the first four numbers of the loss's gradient."""
    parts = {**parts, "loss": torch.stack(list(parts.values())).sum()}
    assert parts.keys() == ENTRY["value"].keys()
    close = TOLERANCE[student.dtype]
    for part, loss in parts.items():
        (gradient,) = torch.autograd.grad(loss, student, retain_graph=True)
        assert loss.dtype == student.dtype
        assert loss.item() == pytest.approx(ENTRY["value"][part], rel=close)
        assert gradient.norm().item() == pytest.approx(ENTRY["grad_norm"][part]["s"], rel=close)
        if part == "loss":
            assert gradient.flatten()[:4].tolist() == pytest.approx(ENTRY["grad_first4"]["s"], rel=close)


def test_pure_losses(inputs):
    student, teacher = inputs[0], scores(inputs[1])
    parts = {
        "instance": mlkd_instance_loss(student, teacher, temperature=TEMPERATURE).mean(),
        "batch": mlkd_batch_loss(student, teacher, temperature=TEMPERATURE),
        "class": mlkd_class_loss(student, teacher, temperature=TEMPERATURE),
    }
    check(student, parts)


def test_the_class_gives_the_same(inputs):
    student, teacher = inputs
    labels = torch.arange(len(student))
    distiller = MLKD(temperature=TEMPERATURE, more_temperatures=False, alpha=1)
    batch, progress = Batch(torch.empty(len(labels), 0), labels, None), Progress(0, 200, 0, 1)
    check(student, distiller(ModelOutput(student), Guide(scores(teacher), {}), batch, progress))


def test_the_entry_is_here():
    assert list(FILE["entries"]) == ["mlkd_parts"]
