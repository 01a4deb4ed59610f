"""The golden values of NST, through the pure loss and the distiller."""

import json
from pathlib import Path

import pytest
import torch

from kdzoo.distillers import build_distiller
from kdzoo.distillers.nst import nst_loss
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, Setting, shapes_of

FILE = json.loads((Path(__file__).parent / "nst.json").read_text())
DTYPES = [torch.float64, torch.float32]


def pure(students, teachers):
    return nst_loss(students, teachers)


def through_the_class(students, teachers):
    outputs = [ModelOutput(torch.zeros(len(s[0]), 7), None, tuple(s)) for s in (students, teachers)]
    labels = torch.arange(len(students[0]))
    setting = Setting(*map(shapes_of, outputs), None, 7, labels)
    distiller = build_distiller("nst", setting, {"weight": 1})
    guide = Guide(None, distiller.detached_digest(outputs[1]))
    batch = Batch(torch.empty(len(labels), 0), labels, None)
    return distiller(outputs[0], guide, batch, Progress(0, 200, 0, 1))["nst"]


@pytest.mark.parametrize("name", FILE["inputs"])
def test_the_generator_makes_the_recorded_input(name, made):
    spec = FILE["inputs"][name]
    values = made(spec).flatten()
    assert values[:3].tolist() == pytest.approx(spec["first3"], rel=1e-12)
    assert [values[-1].item(), values.sum().item()] == pytest.approx([spec["last"], spec["sum"]], rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", [pure, through_the_class])
@pytest.mark.parametrize("name", FILE["entries"])
def test_values_and_gradients(name, loss, dtype, made):
    entry = FILE["entries"][name]
    students, teachers = (
        [made(FILE["inputs"][i]).to(dtype) for i in entry["inputs"][n]] for n in ("fs", "ft")
    )
    for stage in students:
        stage.requires_grad_()
    close = {"rel": entry["rel_tol"] if dtype == torch.float64 else 1e-4}
    parts = {f"stage{i}": loss([s], [t]) for i, (s, t) in enumerate(zip(students, teachers, strict=True))}
    parts["loss"] = loss(students, teachers)
    assert parts.keys() == entry["value"].keys()
    for part, found in parts.items():
        gradients = torch.autograd.grad(found, students, allow_unused=True, materialize_grads=True)
        numbers = torch.cat([g.flatten() for g in gradients])
        assert found.dtype == dtype
        assert found.item() == pytest.approx(entry["value"][part], **close), part
        assert numbers.norm().item() == pytest.approx(entry["grad_norm"][part]["fs"], **close), part
    first = entry.get("grad_first4", {}).get("fs", [])
    limit = close["rel"] * max(map(abs, first), default=0)
    assert numbers[: len(first)].tolist() == pytest.approx(first, **close, abs=limit)


def test_all_entries_are_here():
    assert set(FILE["entries"]) == {"nst", "nst_pool"}
