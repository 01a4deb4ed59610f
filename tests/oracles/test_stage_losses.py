"""AT and FitNet against the papers' formulas, written out in loops of plain Python."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdzoo.distillers.at import at_loss
from kdzoo.distillers.fitnet import FitNet, fitnet_loss
from kdzoo.functional.stages import stage_pair
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress

Map = list[list[float]]
Image = list[Map]
Vector = list[float]


@st.composite
def stages(draw, most=3, fewest=1):
    """Student's and teacher's stages: any sizes, the one or the other larger in each direction."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    samples, channels, size = draw(st.integers(fewest, 3)), st.integers(1, 4), st.integers(1, 7)
    students, teachers = [], []
    for _ in range(draw(st.integers(1, most))):
        for found in (students, teachers):
            shape = (samples, draw(channels), draw(size), draw(size))
            found.append(torch.randn(shape, generator=generator, dtype=torch.float64))
    return students, teachers


def bins(full: int, size: int) -> list[range]:
    """Adaptive pooling: bin i of n covers i/n to (i + 1)/n of the line, and every pixel that it touches."""
    return [range(math.floor(i * full / size), math.ceil((i + 1) * full / size)) for i in range(size)]


def pooled(image: Image, height: int, width: int) -> Image:
    return [
        [
            [
                sum(channel[h][w] for h in rows for w in columns) / (len(rows) * len(columns))
                for columns in bins(len(channel[0]), width)
            ]
            for rows in bins(len(channel), height)
        ]
        for channel in image
    ]


def met(student: Image, teacher: Image) -> tuple[Image, Image]:
    """Both at the smaller height and the smaller width."""
    height = min(len(student[0]), len(teacher[0]))
    width = min(len(student[0][0]), len(teacher[0][0]))
    return pooled(student, height, width), pooled(teacher, height, width)


def attention(image: Image, p: float) -> Vector:
    """Zagoruyko, section 3.1: the channels' |f|^p, averaged, as a vector of length 1."""
    height, width = len(image[0]), len(image[0][0])
    values = [
        sum(abs(channel[h][w]) ** p for channel in image) / len(image)
        for h in range(height)
        for w in range(width)
    ]
    length = math.sqrt(sum(v * v for v in values))
    return [v / length if length else 0.0 for v in values]


def at(student: list[Image], teacher: list[Image], p: float) -> float:
    """One stage: the mean over samples and pixels of the squared difference."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        s, t = met(s, t)
        pairs = list(zip(attention(s, p), attention(t, p), strict=True))
        total += sum((a - b) ** 2 for a, b in pairs) / len(pairs)
    return total / len(student)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(stages(), st.sampled_from([1.0, 1.5, 2.0, 4.0]), st.booleans())
def test_at_is_the_mean_squared_difference_of_maps(case, p, silent):
    students, teachers = case
    if silent:
        students[-1][0] = 0
    expected = sum(at(s.tolist(), t.tolist(), p) for s, t in zip(students, teachers, strict=True))
    assert at_loss(students, teachers, p=p).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def regressed(samples: list[Image], weight: list[Vector]) -> list[Image]:
    """A 1x1 convolution, a batch norm with the batch's own statistics (torch's 1e-5 in the root), a ReLU."""
    height, width = len(samples[0][0]), len(samples[0][0][0])
    plane = [(n, h, w) for n in range(len(samples)) for h in range(height) for w in range(width)]
    made = [[[[0.0] * width for _ in range(height)] for _ in weight] for _ in samples]
    for o, row in enumerate(weight):
        values = {
            (n, h, w): sum(a * c[h][w] for a, c in zip(row, samples[n], strict=True)) for n, h, w in plane
        }
        mean = sum(values.values()) / len(plane)
        variance = sum((v - mean) ** 2 for v in values.values()) / len(plane)
        for n, h, w in plane:
            made[n][o][h][w] = max(0.0, (values[n, h, w] - mean) / math.sqrt(variance + 1e-5))
    return made


def flat(samples: list[Image]) -> Vector:
    return [v for image in samples for channel in image for row in channel for v in row]


@settings(deadline=None, derandomize=True, max_examples=30)
@given(stages(most=1, fewest=2), st.integers(0, 2**31))
def test_fitnet_is_the_mean_square_behind_the_regressor(case, seed):
    (student,), (teacher,) = case
    pair = stage_pair([student.shape[1:]], 0, [teacher.shape[1:]], 0)
    distiller = FitNet(pair, weight=1, hint=1).double()
    weight = distiller.regressor[0].weight.detach().normal_(generator=torch.Generator().manual_seed(seed))
    outputs = [ModelOutput(torch.zeros(len(s), 2), None, (s,)) for s in (student, teacher)]
    guide = Guide(None, distiller.digest(outputs[1]))
    (term,) = distiller(outputs[0], guide, Batch(None, None, None), Progress(0, 1, 0, 1)).values()

    both = [met(s, t) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)]
    predicted = flat(regressed([s for s, _ in both], weight[:, :, 0, 0].tolist()))
    hints = flat([t for _, t in both])
    expected = sum((p - t) ** 2 for p, t in zip(predicted, hints, strict=True)) / len(hints)
    assert term.item() == pytest.approx(expected, rel=1e-9)


@settings(deadline=None, derandomize=True, max_examples=20)
@given(stages(most=1))
def test_fitnet_loss_is_a_mean_over_all_elements(case):
    (student,), _ = case
    hint = student.flip(0, 1, 2, 3)
    pairs = list(zip(flat(student.tolist()), flat(hint.tolist()), strict=True))
    expected = sum((a - b) ** 2 for a, b in pairs) / len(pairs)
    assert fitnet_loss(student, hint).item() == pytest.approx(expected, rel=1e-9, abs=1e-15)
