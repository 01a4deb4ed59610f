"""The golden value of standardised KD, through the distiller."""

import json
from pathlib import Path

import pytest
import torch

from kdzoo.distillers import build_distiller
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, Setting, Shapes, scores

SETTING = Setting(Shapes((7,), (4,), None, None), None, None, 7, torch.zeros(6, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kd_has_the_golden_value(made, dtype):
    golden = json.loads((Path(__file__).parent / "standardized.json").read_text())
    entry = golden["entries"]["kd_zscore"]
    student, teacher, labels = (made(golden["inputs"][entry["inputs"][n]]) for n in "sty")
    leaf = student.to(dtype).requires_grad_()
    distiller = build_distiller("kd", SETTING, {"standardize": True, "alpha": entry["params"]["alpha"]})
    terms = distiller.terms(
        ModelOutput(leaf),
        Guide(scores(teacher.to(dtype)), {}),
        Batch(None, labels, None),
        Progress(0, 1, 0, 1),
    )
    tolerance = 1e-6 if dtype == torch.float64 else 1e-4
    assert terms["kd"].item() / 0.9 == pytest.approx(entry["value"]["kl"], rel=tolerance)
    loss = terms["kd"] + terms["label"]
    assert loss.item() == pytest.approx(entry["value"]["loss"], rel=tolerance)
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert gradient.norm().item() == pytest.approx(entry["grad_norm"]["loss"]["s"], rel=tolerance)
    assert gradient.flatten()[:4].tolist() == pytest.approx(entry["grad_first4"]["s"], rel=1e3 * tolerance)
