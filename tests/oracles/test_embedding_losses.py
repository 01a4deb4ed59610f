"""PKT and RKD against the papers' formulas, written out in loops of plain Python."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdzoo.distillers.pkt import pkt_loss
from kdzoo.distillers.rkd import rkd_angle_loss, rkd_distance_loss

Vector = list[float]
CLOSE = {"rel": 1e-9, "abs": 1e-12}


@st.composite
def embeddings(draw, most=6):
    """Student's and teacher's embeddings of any two sizes, some with a zero row or with equal rows."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    count = draw(st.integers(1, most))
    made = []
    for _ in range(2):
        rows = torch.randn(count, draw(st.integers(1, 6)), generator=generator, dtype=torch.float64)
        special = draw(st.sampled_from(["nothing", "zero row", "equal rows", "opposite rows"]))
        if special == "zero row":
            rows[0] = 0
        elif special != "nothing":
            rows[-1] = rows[0] if special == "equal rows" else -2 * rows[0]
        made.append(rows)
    return made


def dot(one: Vector, other: Vector) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def length(vector: Vector) -> float:
    return math.sqrt(dot(vector, vector))


def cosine(one: Vector, other: Vector, eps: float) -> float:
    """0 for a vector of length 0."""
    lengths = (length(one) + eps) * (length(other) + eps)
    return dot(one, other) / lengths if lengths else 0.0


def likely(rows: list[Vector], eps: float) -> list[Vector]:
    """Passalis, eqs. 5 and 6: how likely each sample picks each, itself included; nothing is negative."""
    affinities = [[max(0.0, (cosine(a, b, eps) + 1) / 2) for b in rows] for a in rows]
    return [[x / sum(row) for x in row] for row in affinities]


def pkt(student: list[Vector], teacher: list[Vector], eps: float) -> float:
    """Passalis, eq. 9, the mean over all N x N."""
    count, s, t = len(student), likely(student, eps), likely(teacher, eps)
    return (
        sum(
            t[i][j] * math.log((t[i][j] + eps) / (s[i][j] + eps))
            for i in range(count)
            for j in range(count)
            if t[i][j] > 0
        )
        / count**2
    )


# Without eps the logarithm of an impossible neighbour is infinite; tests/distillers/test_pkt.py has it.
@settings(deadline=None, derandomize=True, max_examples=60)
@given(embeddings(), st.sampled_from([1e-7, 1e-3, 0.5]))
def test_pkt_is_the_mean_over_all_pairs(case, eps):
    student, teacher = case
    expected = pkt(student.tolist(), teacher.tolist(), eps)
    # Where rows are opposite, rounding decides between nothing and 1e-17 beside eps.
    assert pkt_loss(student, teacher, eps=eps).item() == pytest.approx(expected, rel=1e-8, abs=1e-12)


def huber(difference: float) -> float:
    """Park, eq. 3."""
    return difference**2 / 2 if abs(difference) <= 1 else abs(difference) - 0.5


def away(one: Vector, other: Vector) -> Vector:
    return [a - b for a, b in zip(other, one, strict=True)]


def potentials(rows: list[Vector]) -> list[Vector]:
    """Park, eqs. 4 and 5: the distances, over the mean of the positive ones."""
    found = [[length(away(a, b)) for b in rows] for a in rows]
    positive = [d for row in found for d in row if d > 0]
    mean = sum(positive) / len(positive) if positive else 1.0
    return [[d / mean for d in row] for row in found]


def angle(rows: list[Vector], i: int, j: int, k: int) -> float:
    """Park, eq. 7: the cosine of the angle at sample i; 0 where one side has no length."""
    return cosine(away(rows[i], rows[j]), away(rows[i], rows[k]), 0.0)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(embeddings())
def test_rkd_distance_is_parks_eq_6(case):
    student, teacher = case
    s, t = potentials(student.tolist()), potentials(teacher.tolist())
    every = range(len(s))
    expected = sum(huber(s[i][j] - t[i][j]) for i in every for j in every) / len(s) ** 2
    assert rkd_distance_loss(student, teacher).item() == pytest.approx(expected, **CLOSE)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(embeddings())
def test_rkd_angle_is_parks_eq_8(case):
    student, teacher = case
    s, t, every = student.tolist(), teacher.tolist(), range(len(student))
    expected = sum(huber(angle(s, i, j, k) - angle(t, i, j, k)) for i in every for j in every for k in every)
    assert rkd_angle_loss(student, teacher).item() == pytest.approx(expected / len(s) ** 3, **CLOSE)
