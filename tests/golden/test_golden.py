"""The golden values of the losses on logits and of ReffAKD's soft labels, through the public functions and
through the distillers with the label's term."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdzoo.distillers import Distiller, build_distiller
from kdzoo.distillers.dkd import dkd_loss
from kdzoo.distillers.kd import kd_loss
from kdzoo.functional.divergences import cross_entropy
from kdzoo.outputs import (
    Batch,
    Guide,
    ModelOutput,
    Progress,
    Setting,
    Shapes,
    SoftLabels,
    probabilities,
    scores,
)
from kdzoo.sources.reffakd import class_similarity, smallest_gamma, soft_label_matrix

FILES = {
    name: json.loads((Path(__file__).parent / f"{name}.json").read_text())
    for name in ("kd", "dkd", "reffakd", "features")
}
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
SHAPES = Shapes((7,), (4,), None, None)
SETTING = Setting(SHAPES, None, None, 7, torch.zeros(6, dtype=torch.int64))


@pytest.mark.parametrize(
    ("file", "name"), [(f, n) for f, content in FILES.items() for n in content["inputs"]]
)
def test_generators_make_the_recorded_inputs(file, name, made):
    spec = FILES[file]["inputs"][name]
    values = made(spec)
    if "values" in spec:
        torch.testing.assert_close(
            values, torch.tensor(spec["values"], dtype=values.dtype), rtol=1e-12, atol=1e-15
        )
    else:
        assert values.flatten()[:3].tolist() == pytest.approx(spec["first3"], rel=1e-12)
        assert [values.flatten()[-1], values.sum()] == pytest.approx([spec["last"], spec["sum"]], rel=1e-12)


class Case:
    """An entry with its inputs in a precision; the student's logits take part in gradients."""

    def __init__(self, entry: dict[str, Any], inputs: dict[str, Tensor], dtype: torch.dtype) -> None:
        self.entry = entry
        self.tolerance = TOLERANCE[dtype]
        self.labels = inputs.pop("y")
        inputs = {k: v.to(dtype) for k, v in inputs.items()}
        self.student = inputs.pop("s").requires_grad_()
        ((other, values),) = inputs.items()
        given = other == "q" or self.entry["params"].get("target_is_prob", False)
        self.soft_labels: SoftLabels = probabilities(values) if given else scores(values)

    def __getitem__(self, parameter: str) -> float:
        return self.entry["params"][parameter]

    def check(self, part: str, loss: Tensor) -> None:
        """Compare a part's value and the norm of its gradient."""
        (gradient,) = torch.autograd.grad(loss, self.student, retain_graph=True)
        assert loss.dtype == self.student.dtype
        assert loss.isfinite()
        assert gradient.isfinite().all()
        assert loss.item() == pytest.approx(self.entry["value"][part], rel=self.tolerance)
        assert gradient.norm().item() == pytest.approx(self.entry["grad_norm"][part]["s"], rel=self.tolerance)
        if part == "loss" and self.student.dtype == torch.float64:
            assert gradient.flatten()[:4].tolist() == pytest.approx(
                self.entry["grad_first4"]["s"], rel=1e-6, abs=1e-9
            )

    def terms(self, distiller: Distiller) -> tuple[float, Tensor]:
        """Give the label's weight and the sum of the method's terms, as a member computes them."""
        progress = Progress(0, 200, 0, 1)
        batch = Batch(torch.empty(len(self.labels), 0), self.labels, None)
        terms = distiller(ModelOutput(self.student), Guide(self.soft_labels, {}), batch, progress)
        return distiller.label_weight(progress), torch.stack(list(terms.values())).sum()


@pytest.fixture
def read(made) -> Callable[[str, str, torch.dtype], Case]:
    def find(file: str, name: str, dtype: torch.dtype) -> Case:
        entry = FILES[file]["entries"][name]
        return Case(entry, {k: made(FILES[file]["inputs"][v]) for k, v in entry["inputs"].items()}, dtype)

    return find


OPTIONS = {"elementmean": {"reduction": "elementmean"}, "cross_entropy": {"divergence": "cross_entropy"}}
KD = [
    (file, name, next((options for end, options in OPTIONS.items() if name.endswith(end)), {}))
    for file, name in [("kd", n) for n in FILES["kd"]["entries"]]
    + [("reffakd", n) for n in FILES["reffakd"]["entries"] if n.startswith("loss_")]
]
DTYPES = [torch.float64, torch.float32]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("file", "name", "options"), KD)
def test_kd_and_reffakd_losses(file, name, options, dtype, read):
    case = read(file, name, dtype)
    soft = kd_loss(case.student, case.soft_labels, temperature=case["T"], **options).mean()
    ce = cross_entropy(case.student, case.labels).mean()
    case.check("soft_ce" if "divergence" in options else "kl", soft)
    case.check("loss", (1 - case["alpha"]) * ce + case["alpha"] * soft)
    if "ce" in case.entry["value"]:
        case.check("ce", ce)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("file", "name", "options"), KD)
def test_kd_class_with_its_label_term(file, name, options, dtype, read):
    case = read(file, name, dtype)
    options = {"temperature": case["T"], "alpha": case["alpha"], **options}
    weight, term = case.terms(build_distiller("kd", SETTING, options))
    case.check("loss", weight * cross_entropy(case.student, case.labels).mean() + term)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FILES["dkd"]["entries"])
def test_dkd_losses(name, dtype, read):
    case = read("dkd", name, dtype)

    def part(alpha: float, beta: float) -> Tensor:
        return dkd_loss(
            case.student, case.soft_labels, case.labels, alpha=alpha, beta=beta, temperature=case["T"]
        ).mean()

    ce = cross_entropy(case.student, case.labels).mean()
    loss = part(case["alpha"], case["beta"])
    case.check("ce", ce)
    case.check("tckd", part(1, 0))
    case.check("nckd", part(0, 1))
    case.check("loss", loss)
    case.check("loss_with_ce", loss + ce)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FILES["dkd"]["entries"])
def test_dkd_class_with_its_label_term(name, dtype, read):
    case = read("dkd", name, dtype)
    options = {"temperature": case["T"], "alpha": case["alpha"], "beta": case["beta"], "warmup": 0}
    weight, term = case.terms(build_distiller("dkd", SETTING, options))
    case.check("loss", term)
    case.check("loss_with_ce", weight * cross_entropy(case.student, case.labels).mean() + term)


@pytest.mark.parametrize("dtype", DTYPES)
def test_reffakd_similarity_gamma_and_soft_labels(dtype, made):
    entry = FILES["reffakd"]["entries"]["similarity"]
    embeddings = made(FILES["reffakd"]["inputs"][entry["inputs"]["embeddings"]]).to(dtype)
    labels = torch.tensor(entry["labels"]["values"])
    close = {"rtol": TOLERANCE[dtype], "atol": 1e-9}

    def expected(name: str) -> Tensor:
        return torch.tensor(entry[name], dtype=dtype)

    average = class_similarity(embeddings, labels, 5)
    torch.testing.assert_close(average, expected("average"), **close)
    assert smallest_gamma(average) == pytest.approx(entry["minimal_gamma"], rel=TOLERANCE[dtype])
    gamma = entry["params"]["gamma"]
    torch.testing.assert_close(soft_label_matrix(average, gamma), expected("soft_labels"), **close)
    correct = (soft_label_matrix(average, gamma).argmax(dim=1) == torch.arange(5)).sum()
    assert correct == entry["rows_correct_with_gamma"]
    # Not the readings of eq. 1 that put gamma inside the sum.
    assert (soft_label_matrix(average, gamma) - expected("soft_labels_gamma_inside_sum")).abs().max() > 1e-3
