"""SP against the paper's formula, written out in loops of plain Python."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdzoo.distillers.sp import sp_loss

Vector = list[float]


@st.composite
def stages(draw):
    """Stages of any two shapes, some with a zero sample, some with two equal or opposite ones."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    count = draw(st.integers(1, 5))
    made = []
    for _ in range(2):
        shape = (draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 4)))
        stage = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
        special = draw(st.sampled_from(["nothing", "zero", "equal", "opposite"]))
        if special == "zero":
            stage[0] = 0
        elif special != "nothing":
            stage[-1] = stage[0] if special == "equal" else -2 * stage[0]
        made.append(stage)
    return made


def numbers(sample) -> Vector:
    return [value for channel in sample for row in channel for value in row]


def table(samples) -> list[Vector]:
    """Inner products of all pairs of samples; each row over its length, a row without length as it is."""
    flat = [numbers(sample) for sample in samples]
    rows = []
    for one in flat:
        row = [sum(a * b for a, b in zip(one, other, strict=True)) for other in flat]
        length = math.sqrt(sum(x * x for x in row))
        rows.append([x / length if length else 0.0 for x in row])
    return rows


@settings(max_examples=25, deadline=None, derandomize=True)
@given(stages())
def test_sp_is_the_squared_frobenius_norm_over_the_number_of_pairs(case):
    student, teacher = case
    s, t, every = table(student.tolist()), table(teacher.tolist()), range(len(student))
    expected = sum((t[i][j] - s[i][j]) ** 2 for i in every for j in every) / len(student) ** 2
    assert sp_loss(student, teacher).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
