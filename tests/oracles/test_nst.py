"""NST against the paper's formula, written out in loops of plain Python."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdzoo.distillers.nst import nst_loss

Map = list[list[float]]
Image = list[Map]
Vector = list[float]


@st.composite
def stages(draw):
    """Student's and teacher's stages of any shapes, the last ones with many channels or with a silent one."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    samples, channels, size = draw(st.integers(1, 3)), st.integers(1, 9), st.integers(1, 4)
    students, teachers = [], []
    for _ in range(draw(st.integers(1, 2))):
        for found in (students, teachers):
            shape = (samples, draw(channels), draw(size), draw(size))
            found.append(torch.randn(shape, generator=generator, dtype=torch.float64))
    for found in (students, teachers):
        if draw(st.booleans()):
            found[-1][0, 0] = 0
    return students, teachers


def bins(full: int, size: int) -> list[range]:
    """Bin i of n covers i/n to (i + 1)/n of the line, and every pixel that it touches."""
    return [range(math.floor(i * full / size), math.ceil((i + 1) * full / size)) for i in range(size)]


def vector(channel: Map, height: int, width: int) -> Vector:
    """A channel's map at a size, as a vector of length 1; a silent one has none."""
    values = [
        sum(channel[h][w] for h in rows for w in columns) / (len(rows) * len(columns))
        for rows in bins(len(channel), height)
        for columns in bins(len(channel[0]), width)
    ]
    length = math.sqrt(sum(v * v for v in values))
    return [v / length if length else 0.0 for v in values]


def kernel(one: Vector, other: Vector) -> float:
    """The polynomial kernel (x'y + c)^d of degree 2 with c = 0."""
    return sum(a * b for a, b in zip(one, other, strict=True)) ** 2


def mean(one: list[Vector], other: list[Vector]) -> float:
    return sum(kernel(a, b) for a in one for b in other) / (len(one) * len(other))


def discrepancy(student: Image, teacher: Image) -> float:
    """The squared MMD of one image's channels at one stage."""
    height = min(len(student[0]), len(teacher[0]))
    width = min(len(student[0][0]), len(teacher[0][0]))
    s, t = ([vector(channel, height, width) for channel in image] for image in (student, teacher))
    return mean(t, t) + mean(s, s) - 2 * mean(s, t)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(stages())
def test_nst_is_the_squared_discrepancy_averaged_over_images(case):
    students, teachers = case
    expected = sum(
        sum(discrepancy(a, b) for a, b in zip(s.tolist(), t.tolist(), strict=True)) / len(s)
        for s, t in zip(students, teachers, strict=True)
    )
    assert nst_loss(students, teachers).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
