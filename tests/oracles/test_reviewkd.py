"""ReviewKD against the paper's formulas, written out in loops of plain Python."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdzoo.distillers.reviewkd import Fusion, reviewkd_loss

Map = list[list[float]]
Image = list[Map]


def bins(full: int, size: int) -> list[range]:
    return [range(math.floor(i * full / size), math.ceil((i + 1) * full / size)) for i in range(size)]


def pooled(image: Image, side: int) -> Image:
    return [
        [
            [
                sum(channel[h][w] for h in rows for w in columns) / (len(rows) * len(columns))
                for columns in bins(len(channel[0]), side)
            ]
            for rows in bins(len(channel), side)
        ]
        for channel in image
    ]


def squares(student: list[Image], teacher: list[Image]) -> float:
    found = [
        (a - b) ** 2
        for s, t in zip(student, teacher, strict=True)
        for of_s, of_t in zip(s, t, strict=True)
        for row_s, row_t in zip(of_s, of_t, strict=True)
        for a, b in zip(row_s, row_t, strict=True)
    ]
    return sum(found) / len(found)


def context(student: list[Image], teacher: list[Image]) -> float:
    """The hierarchical context loss: whole maps, then pooled ones, each with half the weight of the last."""
    least = min(len(student[0][0]), len(student[0][0][0]))
    levels = [squares(student, teacher)]
    for side in (4, 2, 1):
        if side < least:
            levels.append(squares([pooled(i, side) for i in student], [pooled(i, side) for i in teacher]))
    weights = [0.5**n for n in range(len(levels))]
    return sum(w * level for w, level in zip(weights, levels, strict=True)) / sum(weights)


@st.composite
def maps(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    samples, channels, side = draw(st.integers(1, 3)), st.integers(1, 3), st.integers(1, 7)
    shapes = [
        (samples, draw(channels), draw(side), draw(side)) for _ in range(draw(st.integers(1, 3)))
    ]  # fmt: skip
    return tuple(
        [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes] for _ in range(2)
    )


@given(maps())
@settings(deadline=None, derandomize=True, max_examples=25)
def test_reviewkd(both):
    students, teachers = both
    expected = sum(context(s.tolist(), t.tolist()) for s, t in zip(students, teachers, strict=True))
    assert reviewkd_loss(students, teachers).item() == pytest.approx(expected, rel=1e-9)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**31))
@settings(deadline=None, derandomize=True, max_examples=25)
def test_fusion(below, own, size, seed):
    """The paper's figure: both maps weighed pixel by pixel, by two sigmoids that see both."""
    generator = torch.Generator().manual_seed(seed)
    fusion = Fusion(2, 3, 4, fuses=True).double().eval()
    stage = torch.randn(1, 2, own, own, generator=generator, dtype=torch.float64)
    passed = torch.randn(1, 3, below, below, generator=generator, dtype=torch.float64)
    found, up = fusion(stage, passed, (size, size))
    assert found.shape == (1, 4, size, size)
    # Batch norm at its start divides by the root of 1 + eps alone.
    reduce, root = fusion.reduce[0].weight.tolist(), math.sqrt(1 + 1e-5)
    weigh, bias = fusion.attention.weight.tolist(), fusion.attention.bias.tolist()
    ours, deeper, ups = stage[0].tolist(), passed[0].tolist(), up[0].tolist()
    for h in range(size):
        for w in range(size):
            y, x = h * own // size, w * own // size
            reduced = [sum(k[c][0][0] * ours[c][y][x] for c in range(2)) / root for k in reduce]
            lower = [channel[y * below // own][x * below // own] for channel in deeper]
            seen = reduced + lower
            shares = [
                1 / (1 + math.exp(-b - sum(k[c][0][0] * seen[c] for c in range(6))))
                for k, b in zip(weigh, bias, strict=True)
            ]
            for c in range(3):
                expected = shares[0] * reduced[c] + shares[1] * lower[c]
                assert ups[c][h][w] == pytest.approx(expected, rel=1e-9, abs=1e-12)
