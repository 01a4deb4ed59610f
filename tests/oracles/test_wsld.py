"""WSLD against the paper's formula, written out in loops of plain Python."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdzoo.distillers.wsld import sample_weights, wsld_loss
from kdzoo.outputs import probabilities, scores

Row = list[float]
CLOSE = {"rel": 1e-8, "abs": 1e-8}


def softmax(row: Row, temperature: float = 1.0) -> Row:
    exponentials = [math.exp(z / temperature) for z in row]
    return [e / sum(exponentials) for e in exponentials]


def weight(student: Row, target: Row, label: int, eps: float) -> float:
    """Zhou: 1 - exp(- L_ce of the student / L_ce of the teacher), with eps as in the authors' code."""
    if target[label] == 0:
        return 0.0
    of_student, of_teacher = -math.log(softmax(student)[label]), -math.log(target[label]) + eps
    if of_student == 0:
        return 0.0
    return 1 - math.exp(-of_student / of_teacher) if of_teacher else 1.0


def soft_cross_entropy(student: Row, target: Row, temperature: float) -> float:
    """Zhou, L_kd: - T^2 sum_k q_k log p_k, both softened."""
    own = softmax(student, temperature)
    return -(temperature**2) * sum(q * math.log(p) for q, p in zip(target, own, strict=True))


logit = st.floats(-8, 8).map(lambda x: round(x, 6))
epsilons = st.sampled_from([0.0, 1e-7, 0.1, 3.0])


@st.composite
def cases(draw, soft=logit):
    """Student logits, numbers for the soft labels, labels, temperature."""
    count, classes = draw(st.integers(1, 4)), draw(st.integers(2, 6))

    def rows(element):
        row = st.lists(element, min_size=classes, max_size=classes)
        return draw(st.lists(row, min_size=count, max_size=count))

    labels = draw(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count))
    return rows(logit), rows(soft), labels, draw(st.sampled_from([0.5, 1.0, 2.0, 4.0, 20.0]))


def shares(rows: list[list[int]]) -> list[Row]:
    """Probabilities with true zeros; a row of nothing is sure of its first class."""
    rows = [row if sum(row) else [1] + [0] * (len(row) - 1) for row in rows]
    return [[n / sum(row) for n in row] for row in rows]


def tensor(rows: list[Row]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@settings(max_examples=25, deadline=None)
@given(cases(), epsilons)
def test_of_scores_it_is_zhous(case, eps):
    student, teacher, labels, temperature = case
    s, q, y = tensor(student), scores(tensor(teacher)), torch.tensor(labels)
    weights, expected = [], []
    for own, theirs, label in zip(student, teacher, labels, strict=True):
        weights.append(weight(own, softmax(theirs), label, eps))
        soft = soft_cross_entropy(own, softmax(theirs, temperature), temperature)
        expected.append(weights[-1] * soft)
    assert sample_weights(s, q, y, eps=eps).tolist() == pytest.approx(weights, **CLOSE)
    found = wsld_loss(s, q, y, temperature=temperature, eps=eps)
    assert found.tolist() == pytest.approx(expected, **CLOSE)


@settings(max_examples=25, deadline=None)
@given(cases(soft=st.integers(0, 4)), epsilons)
def test_of_probabilities_the_temperature_divides_the_student_alone(case, eps):
    student, counts, labels, temperature = case
    soft = shares(counts)
    found = wsld_loss(
        tensor(student), probabilities(tensor(soft)), torch.tensor(labels), temperature=temperature, eps=eps
    )
    expected = [
        weight(s, q, y, eps) * soft_cross_entropy(s, q, temperature)
        for s, q, y in zip(student, soft, labels, strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, **CLOSE)


@settings(max_examples=25, deadline=None)
@given(cases(), epsilons)
def test_the_gradient_takes_the_weights_as_constants(case, eps):
    """Of - T^2 w sum q log p it is T w (p - q)."""
    student, teacher, labels, temperature = case
    leaf = tensor(student).requires_grad_()
    loss = wsld_loss(leaf, scores(tensor(teacher)), torch.tensor(labels), temperature=temperature, eps=eps)
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    for row, s, t, y in zip(gradient.tolist(), student, teacher, labels, strict=True):
        w = weight(s, softmax(t), y, eps)
        pairs = zip(softmax(s, temperature), softmax(t, temperature), strict=True)
        assert row == pytest.approx([temperature * w * (p - q) for p, q in pairs], **CLOSE)
