"""VID against the paper's formula, written out in loops of plain Python."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdzoo.distillers.vid import VID, vid_loss
from kdzoo.functional.stages import pair_stages
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress

Vector = list[float]


def density(value: float, mean: float, variance: float) -> float:
    """The normal distribution's, from its definition."""
    return math.exp(-((value - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def unlikely(means, variances: Vector, values) -> float:
    """Ahn: -log q(t | s), a Gaussian with one variance per channel; the mean, without log(2 pi) / 2."""
    found = [
        -math.log(density(value, mean, variances[c])) - math.log(2 * math.pi) / 2
        for of_means, of_values in zip(means, values, strict=True)
        for c, (plane, other) in enumerate(zip(of_means, of_values, strict=True))
        for row, line in zip(plane, other, strict=True)
        for mean, value in zip(row, line, strict=True)
    ]
    return sum(found) / len(found)


@st.composite
def maps(draw, fewest=1):
    """A generator, samples, and height and width."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return generator, draw(st.integers(fewest, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 4))


@settings(deadline=None, derandomize=True, max_examples=25)
@given(maps(), st.integers(1, 4))
def test_vid_is_the_mean_negative_log_likelihood(case, channels):
    generator, samples, *size = case
    predicted, teacher = (
        torch.randn(samples, channels, *size, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    variance = 0.2 + 3 * torch.rand(channels, generator=generator, dtype=torch.float64)
    expected = unlikely(predicted.tolist(), variance.tolist(), teacher.tolist())
    assert vid_loss(predicted, variance, teacher).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def weighed(vector: Vector, weight: list[Vector], positive: bool) -> Vector:
    found = [sum(a * b for a, b in zip(row, vector, strict=True)) for row in weight]
    return [max(0.0, v) for v in found] if positive else found


@settings(deadline=None, derandomize=True, max_examples=20)
@given(maps(), st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=2))
def test_the_class_predicts_every_stage_pixel_by_pixel(case, channels):
    generator, samples, height, width = case
    stages = [
        [
            torch.randn(samples, c[i], height, width, generator=generator, dtype=torch.float64)
            for c in channels
        ]
        for i in range(2)
    ]
    student, teacher = (ModelOutput(torch.zeros(samples, 2), None, tuple(s)) for s in stages)
    distiller = VID(pair_stages(*([s.shape[1:] for s in of] for of in stages)), weight=2).double()
    expected = 0.0
    for prediction, own, guide in zip(distiller.predictions, *stages, strict=True):
        torch.nn.init.normal_(prediction.raw_variance, generator=generator)
        weights = [part.weight[:, :, 0, 0].tolist() for part in prediction.mean[::2]]
        means = torch.empty_like(guide)
        for n in range(samples):
            for h in range(height):
                for w in range(width):
                    pixel = own[n, :, h, w].tolist()
                    for i, weight in enumerate(weights):
                        pixel = weighed(pixel, weight, positive=i < 2)
                    means[n, :, h, w] = torch.tensor(pixel, dtype=torch.float64)
        variances = [math.log(1 + math.exp(raw)) + 1e-5 for raw in prediction.raw_variance.tolist()]
        expected += 2 * unlikely(means.tolist(), variances, guide.tolist())
    guide = Guide(None, distiller.detached_digest(teacher))
    (term,) = distiller(student, guide, Batch(None, None, None), Progress(0, 1, 0, 1)).values()
    assert term.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
