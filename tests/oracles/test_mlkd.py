"""MLKD's three parts against the paper's formulas, written out in loops of plain Python."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdzoo.distillers.mlkd import mlkd_batch_loss, mlkd_class_loss, mlkd_instance_loss
from kdzoo.outputs import probabilities, scores

Row = list[float]
CLOSE = {"rel": 1e-8, "abs": 1e-9}


def softmax(row: Row, temperature: float) -> Row:
    exponentials = [math.exp(z / temperature) for z in row]
    return [e / sum(exponentials) for e in exponentials]


def instance(student: list[Row], target: list[Row], temperature: float) -> list[float]:
    """Jin: KL of each sample, times T^2."""
    return [
        temperature**2 * sum(p * math.log(p / q) for p, q in zip(t, s, strict=True) if p > 0)
        for s, t in zip(student, target, strict=True)
    ]


def products(rows: list[Row]) -> list[Row]:
    return [[sum(a * b for a, b in zip(one, other, strict=True)) for other in rows] for one in rows]


def distance(student: list[Row], target: list[Row]) -> float:
    """The squared Frobenius norm of the difference of two square matrices, over their size."""
    n = len(student)
    return sum((student[i][j] - target[i][j]) ** 2 for i in range(n) for j in range(n)) / n


def columns(rows: list[Row]) -> list[Row]:
    return [[row[k] for row in rows] for k in range(len(rows[0]))]


logit = st.floats(-20, 20).map(lambda x: round(x, 6))


@st.composite
def cases(draw, soft=logit):
    """Student logits, numbers for the soft labels, temperature."""
    count, classes = draw(st.integers(1, 5)), draw(st.integers(2, 6))

    def rows(element):
        row = st.lists(element, min_size=classes, max_size=classes)
        return draw(st.lists(row, min_size=count, max_size=count))

    return rows(logit), rows(soft), draw(st.sampled_from([0.5, 1.0, 2.5, 4.0]))


def tensor(rows: list[Row]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def check(student: list[Row], target: list[Row], soft, temperature: float) -> None:
    own = [softmax(s, temperature) for s in student]
    logits = tensor(student)
    found = mlkd_instance_loss(logits, soft, temperature=temperature)
    assert found.tolist() == pytest.approx(instance(own, target, temperature), **CLOSE)
    found = mlkd_batch_loss(logits, soft, temperature=temperature)
    assert found.item() == pytest.approx(distance(products(own), products(target)), **CLOSE)
    found = mlkd_class_loss(logits, soft, temperature=temperature)
    expected = distance(products(columns(own)), products(columns(target)))
    assert found.item() == pytest.approx(expected, **CLOSE)


@settings(deadline=None, max_examples=25)
@given(cases())
def test_the_parts_of_scores_are_jins(case):
    student, teacher, temperature = case
    target = [softmax(t, temperature) for t in teacher]
    check(student, target, scores(tensor(teacher)), temperature)


@settings(deadline=None, max_examples=25)
@given(cases(soft=st.integers(0, 4)))
def test_the_parts_of_probabilities_leave_them_alone(case):
    student, counts, temperature = case
    rows = [row if sum(row) else [1] + [0] * (len(row) - 1) for row in counts]
    target = [[n / sum(row) for n in row] for row in rows]
    check(student, target, probabilities(tensor(target)), temperature)
