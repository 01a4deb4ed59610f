"""DIST against the paper's formulas, written out in loops of plain Python."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kdzoo.distillers.dist import dist_inter_loss, dist_intra_loss
from kdzoo.outputs import probabilities, scores

Row = list[float]
CLOSE = {"rel": 1e-6, "abs": 1e-6}


def softmax(row: Row, temperature: float) -> Row:
    exponentials = [math.exp(z / temperature) for z in row]
    return [e / sum(exponentials) for e in exponentials]


def pearson(u: Row, v: Row) -> float:
    """The covariance over the product of the standard deviations; 0 where one of them is 0."""
    mean_u, mean_v = sum(u) / len(u), sum(v) / len(v)
    covariance = sum((a - mean_u) * (b - mean_v) for a, b in zip(u, v, strict=True))
    spread = math.sqrt(sum((a - mean_u) ** 2 for a in u)) * math.sqrt(sum((b - mean_v) ** 2 for b in v))
    return covariance / spread if spread else 0.0


def inter(student: list[Row], teacher: list[Row], temperature: float) -> list[float]:
    """Huang: Pearson's distance of each sample's rows."""
    return [temperature**2 * (1 - pearson(s, t)) for s, t in zip(student, teacher, strict=True)]


def intra(student: list[Row], teacher: list[Row], temperature: float) -> float:
    """Huang: Pearson's distance of each class's columns, the mean over classes."""
    columns = [([s[k] for s in student], [t[k] for t in teacher]) for k in range(len(student[0]))]
    return sum(temperature**2 * (1 - pearson(s, t)) for s, t in columns) / len(columns)


logit = st.floats(-20, 20).map(lambda x: round(x, 3))
temperatures = st.sampled_from([1.0, 2.5, 4.0])


@st.composite
def cases(draw, soft=logit):
    """Student logits, numbers for the soft labels, temperature."""
    count, classes = draw(st.integers(1, 5)), draw(st.integers(2, 6))

    def rows(element):
        row = st.lists(element, min_size=classes, max_size=classes)
        return draw(st.lists(row, min_size=count, max_size=count))

    return rows(logit), rows(soft), draw(temperatures)


def told_apart(rows: list[Row]) -> bool:
    """Whether the numbers of each row and column are equal or clearly not; the rest rounding decides."""
    lines = [*rows, *map(list, zip(*rows, strict=True))]
    return all(max(line) - min(line) > 1e-4 * max(line) for line in lines if max(line) != min(line))


def tensor(rows: list[Row]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def check(student: list[Row], target: list[Row], soft, temperature: float) -> None:
    own = [softmax(s, temperature) for s in student]
    assume(told_apart(own) and told_apart(target))
    found = dist_inter_loss(tensor(student), soft, temperature=temperature)
    assert found.tolist() == pytest.approx(inter(own, target, temperature), **CLOSE)
    found = dist_intra_loss(tensor(student), soft, temperature=temperature)
    assert found.item() == pytest.approx(intra(own, target, temperature), **CLOSE)


@settings(deadline=None, max_examples=25)
@given(cases())
def test_dist_of_scores_is_huangs(case):
    student, teacher, temperature = case
    target = [softmax(t, temperature) for t in teacher]
    check(student, target, scores(tensor(teacher)), temperature)


@settings(deadline=None, max_examples=25)
@given(cases(soft=st.integers(0, 4)))
def test_dist_of_probabilities_leaves_them_alone(case):
    student, counts, temperature = case
    rows = [row if sum(row) else [1] + [0] * (len(row) - 1) for row in counts]
    target = [[n / sum(row) for n in row] for row in rows]
    check(student, target, probabilities(tensor(target)), temperature)
