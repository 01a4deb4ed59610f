"""CTKD: KD whose temperature learns against the student."""

import math

import pytest
import torch

from kdzoo.distillers import build_distiller
from kdzoo.distillers.ctkd import CTKD, ctkd_loss, difficulty
from kdzoo.distillers.kd import kd_loss
from kdzoo.outputs import Setting, Shapes, probabilities, scores

EPOCHS = 200
SETTING = Setting(Shapes((5,), (4,), None, None), None, None, 5, torch.zeros(6, dtype=torch.int64))


def learned(distiller):
    return distiller.start + distiller.span * torch.sigmoid(distiller.theta)


@pytest.mark.parametrize("soft", [scores, lambda x: probabilities(x.softmax(dim=1))])
def test_the_loss_is_kds_at_its_temperature(logits, soft):
    student, labels = logits(6, 5, 0), soft(logits(6, 5, 1))
    for temperature in (1.0, 4.0, 15.6):
        found = ctkd_loss(student, labels, temperature=torch.tensor(temperature, dtype=torch.float64))
        torch.testing.assert_close(found, kd_loss(student, labels, temperature=temperature))


def test_the_gradient_reaches_the_temperature_wherever_it_stands(logits):
    """By differences: T stands on both sides and in the factor."""
    student, soft = logits(6, 5, 0), scores(logits(6, 5, 1))
    temperature = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    ctkd_loss(student, soft, temperature=temperature).mean().backward()
    low, high = (kd_loss(student, soft, temperature=3.0 + d).mean() for d in (-1e-5, 1e-5))
    assert temperature.grad.item() == pytest.approx(((high - low) / 2e-5).item(), rel=1e-6)


def test_the_curriculum_is_a_half_wave():
    assert [difficulty(e, 10) for e in (-1, 4, 9, 50)] == pytest.approx([0.0, 0.5, 1.0, 1.0])
    assert difficulty(0, 10) == pytest.approx((1 - math.cos(math.pi / 10)) / 2)
    assert difficulty(0, 1) == 1.0


def test_the_temperature_moves_against_the_student(logits, step):
    student, soft, labels = logits(6, 5, 0), scores(logits(6, 5, 1)), torch.arange(6) % 5
    distiller = build_distiller("ctkd", SETTING)

    def gradient(epoch):
        (found,) = torch.autograd.grad(
            step(distiller, student, soft, labels, epoch=epoch)["ctkd"], distiller.theta
        )
        return found.item()

    plain = 0.9 * ctkd_loss(student, soft, temperature=learned(distiller)).mean()
    (straight,) = torch.autograd.grad(plain, distiller.theta)
    assert gradient(EPOCHS - 1) == pytest.approx(-straight.item(), rel=1e-5)
    assert gradient(0) == pytest.approx(-difficulty(0, 10) * straight.item(), rel=1e-5)
    # A step of the optimizer along it raises what the student has to learn.
    along = gradient(EPOCHS - 1)
    with torch.no_grad():
        distiller.theta -= 0.1 * along
    raised = 0.9 * ctkd_loss(student, soft, temperature=learned(distiller)).mean()
    assert raised > plain


def test_the_students_gradient_is_kds(logits, step):
    student, soft, labels = logits(6, 5, 0), scores(logits(6, 5, 1)), torch.arange(6) % 5
    distiller = build_distiller("ctkd", SETTING, {"start": 2, "span": 3, "alpha": 0.5})
    found, expected = [], []
    for kept, term in (
        (found, lambda leaf: step(distiller, leaf, soft, labels)["ctkd"]),
        (expected, lambda leaf: 0.5 * kd_loss(leaf, soft, temperature=learned(distiller).item()).mean()),
    ):
        leaf = student.clone().requires_grad_()
        value = term(leaf)
        kept += [value, torch.autograd.grad(value, leaf)[0]]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_without_a_span_the_temperature_stays(logits, step):
    student, soft, labels = logits(6, 5, 0), scores(logits(6, 5, 1)), torch.arange(6) % 5
    distiller = build_distiller("ctkd", SETTING, {"start": 4, "span": 0})
    term = step(distiller, student, soft, labels)["ctkd"]
    torch.testing.assert_close(term, 0.9 * kd_loss(student, soft, temperature=4.0).mean())


def test_defaults_and_the_curriculums_share_of_training():
    distiller = build_distiller("ctkd", SETTING)
    assert distiller.options == {
        "alpha": 0.9, "start": 1.0, "span": 20.0, "loops": 10, "standardize": False,
    }  # fmt: skip
    assert distiller.label_weight(None) == pytest.approx(0.1)
    assert [name for name, _ in distiller.named_parameters()] == ["theta"]
    lengths = {200: 10, 240: 10, 100: 5, 20: 1, 3: 1}
    assert {e: CTKD.scaled_options(e)["loops"] for e in lengths} == lengths
