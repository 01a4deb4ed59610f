"""SimKD against the paper's formulas, written out in loops of plain Python."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kdzoo.distillers.simkd import ReusedClassifier, SimKD, simkd_loss
from kdzoo.functional.stages import stage_pair
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress

Map = list[list[float]]
Image = list[Map]


def distance(student: list[Image], teacher: list[Image]) -> float:
    squares = [
        (a - b) ** 2
        for s, t in zip(student, teacher, strict=True)
        for of_s, of_t in zip(s, t, strict=True)
        for row_s, row_t in zip(of_s, of_t, strict=True)
        for a, b in zip(row_s, row_t, strict=True)
    ]
    return sum(squares) / len(squares)


def convolved(image: Image, weight: list[list[Map]]) -> Image:
    """Convolve with kernels of k x k, zeros around the map."""
    height, width, reach = len(image[0]), len(image[0][0]), len(weight[0][0]) // 2

    def value(kernel: list[Map], h: int, w: int) -> float:
        return sum(
            kernel[c][i + reach][j + reach] * image[c][h + i][w + j]
            for c in range(len(image))
            for i in range(-reach, reach + 1)
            for j in range(-reach, reach + 1)
            if 0 <= h + i < height and 0 <= w + j < width
        )

    return [[[value(kernel, h, w) for w in range(width)] for h in range(height)] for kernel in weight]


def normalised(images: list[Image], scale: list[float], shift: list[float]) -> list[Image]:
    """Batch norm by the batch's own mean and variance, then ReLU."""
    found: list[Image] = [[] for _ in images]
    for channel in range(len(scale)):
        values = [v for image in images for row in image[channel] for v in row]
        mean = sum(values) / len(values)
        deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values) + 1e-5)
        for image, kept in zip(images, found, strict=True):
            kept.append([
                [max(0.0, scale[channel] * (v - mean) / deviation + shift[channel]) for v in row]
                for row in image[channel]
            ])  # fmt: skip
    return found


def projected(images: list[Image], projector: nn.Sequential) -> list[Image]:
    for place in (0, 3, 6):
        images = [convolved(image, projector[place].weight.tolist()) for image in images]
        norm = projector[place + 1]
        images = normalised(images, norm.weight.tolist(), norm.bias.tolist())
    return images


@st.composite
def settings_of(draw):
    sizes = {n: draw(st.integers(1, 3)) for n in ("samples", "ours", "theirs", "height", "width")}
    sizes["samples"] += 1
    return sizes, draw(st.integers(1, sizes["theirs"])), draw(st.integers(0, 2**31))


@given(settings_of())
@settings(deadline=None, derandomize=True, max_examples=25)
def test_simkd(drawn):
    sizes, factor, seed = drawn
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    samples, place = sizes["samples"], (sizes["height"], sizes["width"])
    student, teacher = normal(samples, sizes["ours"], *place), normal(samples, sizes["theirs"], *place)
    assert simkd_loss(teacher, teacher + 0.5).item() == pytest.approx(0.25)
    pair = stage_pair([student.shape[1:]], 0, [teacher.shape[1:]], 0)
    classifier = nn.Linear(sizes["theirs"], 4).double()
    distiller = SimKD(pair, place, 1, classifier, weight=2.5, factor=factor).double()
    with torch.no_grad():
        for parameter in distiller.projector.parameters():
            parameter.copy_(normal(*parameter.shape))
    guide = Guide(None, distiller.digest(ModelOutput(None, None, (teacher,))))
    batch = Batch(torch.empty(samples, 0), torch.zeros(samples, dtype=torch.int64), None)
    term = distiller(ModelOutput(None, None, (student,)), guide, batch, Progress(0, 1, 0, 1))["simkd"]
    made = projected(student.tolist(), distiller.projector)
    assert term.item() == pytest.approx(2.5 * distance(made, teacher.tolist()), rel=1e-9)


@given(st.integers(0, 2**31))
@settings(deadline=None, derandomize=True, max_examples=10)
def test_the_logits_are_the_teachers_classifier_on_the_averages(seed):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, 3, 2, 3, generator=generator, dtype=torch.float64)
    classifier = nn.Linear(3, 4).double()

    class Given(nn.Module):
        def forward(self, images):
            return ModelOutput(None, None, (images,))

    logits = ReusedClassifier(Given(), nn.Identity(), classifier, (2, 3), 1)(maps).logits.tolist()
    weight, bias = classifier.weight.tolist(), classifier.bias.tolist()
    for image, found in zip(maps.tolist(), logits, strict=True):
        means = [sum(sum(row) for row in channel) / 6 for channel in image]
        expected = [
            sum(w * m for w, m in zip(row, means, strict=True)) + b
            for row, b in zip(weight, bias, strict=True)
        ]
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
