"""CC against its formulas, written out in loops of plain Python."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdzoo.distillers.cc import cc_consecutive_loss, cc_loss

Vector = list[float]
CLOSE = {"rel": 1e-9, "abs": 1e-13}


@st.composite
def embeddings(draw, same=False):
    """Student's and teacher's embeddings, of one size or of any two, some with a zero row or equal rows."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    count, width, made = draw(st.integers(1, 6)), st.integers(1, 6), []
    widths = [draw(width)] * 2 if same else [draw(width), draw(width)]
    for size in widths:
        rows = torch.randn(count, size, generator=generator, dtype=torch.float64)
        special = draw(st.sampled_from(["nothing", "zero row", "equal rows", "opposite rows"]))
        if special == "zero row":
            rows[0] = 0
        elif special != "nothing":
            rows[-1] = rows[0] if special == "equal rows" else -2 * rows[0]
        made.append(rows)
    return made


def directed(vector: Vector) -> Vector:
    length = math.sqrt(sum(v * v for v in vector))
    return [v / length if length else 0.0 for v in vector]


def kernel(a: Vector, b: Vector, gamma: float, order: int) -> float:
    """Peng: exp(-gamma |a - b|^2), as exp(-2 gamma) sum of (2 gamma)^p / p! (a . b)^p up to an order."""
    inner = sum(x * y for x, y in zip(a, b, strict=True))
    series = sum((2 * gamma) ** p / math.factorial(p) * inner**p for p in range(order + 1))
    return math.exp(-2 * gamma) * series


@settings(deadline=None, derandomize=True, max_examples=25)
@given(embeddings(), st.sampled_from([0.05, 0.4, 1.0, 3.0]), st.integers(1, 6))
def test_cc_is_the_mean_squared_difference_of_kernels(case, gamma, order):
    students, teachers = ([directed(row) for row in rows.tolist()] for rows in case)
    every = range(len(students))
    expected = sum(
        (kernel(students[i], students[j], gamma, order) - kernel(teachers[i], teachers[j], gamma, order)) ** 2
        for i in every
        for j in every
    )
    found = cc_loss(*case, gamma=gamma, order=order).item()
    assert found == pytest.approx(expected / len(students) ** 2, **CLOSE)


@settings(deadline=None, derandomize=True, max_examples=25)
@given(embeddings(same=True))
def test_the_consecutive_form_multiplies_the_errors_of_neighbours(case):
    student, teacher = (rows.tolist() for rows in case)
    total = 0.0
    for n in range(len(student) - 1):
        for k in range(len(student[0])):
            total += abs(student[n][k] - teacher[n][k]) * abs(student[n + 1][k] - teacher[n + 1][k])
    expected = total / (len(student) - 1) if len(student) > 1 else 0.0
    assert cc_consecutive_loss(*case).item() == pytest.approx(expected, **CLOSE)
