"""The golden values of DIST, through the pure losses and through the class."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdzoo.distillers.dist import DIST, dist_inter_loss, dist_intra_loss
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, scores

FILE = json.loads((Path(__file__).parent / "dist.json").read_text())
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
DTYPES = list(TOLERANCE)
Read = Callable[[str, torch.dtype], tuple[dict[str, Any], Tensor, Tensor]]


@pytest.fixture
def read(made) -> Read:
    def find(name: str, dtype: torch.dtype) -> tuple[dict[str, Any], Tensor, Tensor]:
        entry = FILE["entries"][name]
        student, teacher = (made(FILE["inputs"][entry["inputs"][key]]).to(dtype) for key in "st")
        return entry, student.requires_grad_(), teacher

    return find


def check(entry: dict[str, Any], student: Tensor, parts: dict[str, Tensor]) -> None:
    """Compare values, norms of gradients, and the first four numbers of the loss's gradient."""
    assert parts.keys() == entry["value"].keys()
    close = TOLERANCE[student.dtype]
    for part, loss in parts.items():
        (gradient,) = torch.autograd.grad(loss, student, retain_graph=True)
        assert loss.dtype == student.dtype
        assert loss.item() == pytest.approx(entry["value"][part], rel=close)
        assert gradient.norm().item() == pytest.approx(entry["grad_norm"][part]["s"], rel=close)
        if part == "loss":
            first = entry["grad_first4"]["s"]
            least = close * max(map(abs, first))
            assert gradient.flatten()[:4].tolist() == pytest.approx(first, rel=close, abs=least)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FILE["entries"])
def test_pure_losses(name, dtype, read):
    entry, student, teacher = read(name, dtype)
    given = entry["params"]
    inter = dist_inter_loss(student, scores(teacher), temperature=given["T"]).mean()
    intra = dist_intra_loss(student, scores(teacher), temperature=given["T"])
    loss = given["beta"] * inter + given["gamma"] * intra
    check(entry, student, {"inter": inter, "intra": intra, "loss": loss})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FILE["entries"])
def test_the_class_gives_the_same(name, dtype, read):
    entry, student, teacher = read(name, dtype)
    given = entry["params"]
    labels = torch.arange(len(student))

    def terms(**options: float) -> dict[str, Tensor]:
        return DIST(temperature=given["T"], **options)(
            ModelOutput(student), Guide(scores(teacher), {}),
            Batch(torch.empty(len(labels), 0), labels, None), Progress(0, 200, 0, 1),
        )  # fmt: skip

    whole = terms(beta=given["beta"], gamma=given["gamma"])
    check(entry, student, {**terms(beta=1, gamma=1), "loss": whole["inter"] + whole["intra"]})


def test_all_entries_are_here():
    assert list(FILE["entries"]) == ["dist", "dist_eps", "dist_T4"]
