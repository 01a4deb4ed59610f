"""The golden values of VID, through the pure loss and through the class."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from kdzoo.distillers import build_distiller
from kdzoo.distillers.vid import vid_loss
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, Setting, shapes_of

FILE = json.loads((Path(__file__).parent / "vid.json").read_text())
(ENTRY,) = FILE["entries"].values()
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
PRECISIONS = pytest.mark.parametrize("dtype", TOLERANCE)


@pytest.fixture
def read(made):
    def find(dtype):
        given = {n: made(FILE["inputs"][i]).to(dtype) for n, i in ENTRY["inputs"].items()}
        return {n: t if n == "ft" else t.requires_grad_() for n, t in given.items()}

    return find


def check(loss, leaves):
    close = TOLERANCE[loss.dtype]
    assert loss.item() == pytest.approx(ENTRY["value"]["loss"], rel=close)
    assert leaves.keys() == ENTRY["grad_norm"]["loss"].keys()
    for name, norm in ENTRY["grad_norm"]["loss"].items():
        (gradient,) = torch.autograd.grad(loss, leaves[name], retain_graph=True)
        assert gradient.norm().item() == pytest.approx(norm, rel=close), name
        first = ENTRY["grad_first4"][name]
        scale = close * max(map(abs, first))
        assert gradient.flatten()[:4].tolist() == pytest.approx(first, rel=close, abs=scale), name


@pytest.mark.parametrize("name", FILE["inputs"])
def test_generators_make_the_recorded_inputs(name, made):
    spec = FILE["inputs"][name]
    values = made(spec)
    if "values" in spec:
        recorded = torch.tensor(spec["values"], dtype=torch.float64)
        torch.testing.assert_close(values, recorded, rtol=1e-12, atol=1e-15)
    else:
        assert values.flatten()[:3].tolist() == pytest.approx(spec["first3"], rel=1e-12)
        assert [values.flatten()[-1], values.sum()] == pytest.approx([spec["last"], spec["sum"]], rel=1e-12)


@PRECISIONS
def test_the_pure_loss(dtype, read):
    inputs = read(dtype)
    teacher = inputs.pop("ft")
    predicted = nn.functional.conv2d(inputs["fs"], inputs["w"][..., None, None])
    variance = nn.functional.softplus(inputs["rho"]) + ENTRY["params"]["eps"]
    check(vid_loss(predicted, variance, teacher), inputs)


@PRECISIONS
def test_the_class_gives_the_same(dtype, read):
    inputs = read(dtype)
    student, teacher = (ModelOutput(torch.zeros(3, 7), None, (inputs[n],)) for n in ("fs", "ft"))
    setting = Setting(shapes_of(student), shapes_of(teacher), None, 7, torch.arange(3))
    distiller = build_distiller("vid", setting, {"weight": 1, "eps": ENTRY["params"]["eps"]}).to(dtype)
    (prediction,) = distiller.predictions
    # The file's means come from one convolution.
    prediction.mean = nn.Conv2d(5, 6, 1, bias=False).to(dtype)
    with torch.no_grad():
        prediction.mean.weight.copy_(inputs["w"][..., None, None])
        prediction.raw_variance.copy_(inputs["rho"])
    guide = Guide(None, distiller.detached_digest(teacher))
    batch = Batch(torch.empty(3, 0), torch.arange(3), None)
    loss = distiller(student, guide, batch, Progress(0, 200, 0, 1))["vid"]
    check(loss, {"fs": inputs["fs"], "w": prediction.mean.weight, "rho": prediction.raw_variance})
