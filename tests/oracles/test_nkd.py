"""NKD against the paper's formula, written out in loops of plain Python."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdzoo.distillers.nkd import nkd_loss
from kdzoo.outputs import mix, probabilities, scores

Row = list[float]
CLOSE = {"rel": 1e-8, "abs": 1e-8}


def softmax(row: Row, temperature: float = 1.0) -> Row:
    exponentials = [math.exp(z / temperature) for z in row]
    return [e / sum(exponentials) for e in exponentials]


def normalized(probs: Row, label: int) -> Row:
    """Yang, N(.): the others' probabilities over their sum; nothing is left where the target has them all."""
    total = sum(p for k, p in enumerate(probs) if k != label)
    return [p / total for k, p in enumerate(probs) if k != label] if total else []


def nkd(student: Row, target: Row, softened: Row, label: int, gamma: float, temperature: float) -> float:
    """Yang, the NKD loss: - t_y log s_y - gamma T^2 sum_{k != y} N(t)_k log N(s)_k, the first without T."""
    loss = -target[label] * math.log(softmax(student)[label])
    wanted, own = normalized(softened, label), normalized(softmax(student, temperature), label)
    for k, share in enumerate(wanted):
        loss -= gamma * temperature**2 * share * math.log(own[k])
    return loss


logit = st.floats(-20, 20).map(lambda x: round(x, 6))


@st.composite
def cases(draw, soft=logit):
    """Student logits, numbers for the soft labels, labels, and both options."""
    count, classes = draw(st.integers(1, 4)), draw(st.integers(2, 6))

    def rows(element):
        row = st.lists(element, min_size=classes, max_size=classes)
        return draw(st.lists(row, min_size=count, max_size=count))

    labels = draw(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count))
    options = {"gamma": draw(st.floats(0, 5)), "temperature": draw(st.sampled_from([0.5, 1.0, 3.0, 20.0]))}
    return rows(logit), rows(soft), labels, options


def shares(rows: list[list[int]]) -> list[Row]:
    """Probabilities with true zeros; a row of nothing is sure of its first class."""
    rows = [row if sum(row) else [1] + [0] * (len(row) - 1) for row in rows]
    return [[n / sum(row) for n in row] for row in rows]


def tensor(rows: list[Row]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@settings(max_examples=25, deadline=None)
@given(cases())
def test_of_scores_it_is_yangs(case):
    student, teacher, labels, options = case
    found = nkd_loss(tensor(student), scores(tensor(teacher)), torch.tensor(labels), **options)
    expected = [
        nkd(s, softmax(t), softmax(t, options["temperature"]), y, **options)
        for s, t, y in zip(student, teacher, labels, strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, **CLOSE)


@settings(max_examples=25, deadline=None)
@given(cases(soft=st.integers(0, 4)))
def test_of_probabilities_both_parts_take_the_same(case):
    student, counts, labels, options = case
    soft = shares(counts)
    found = nkd_loss(tensor(student), probabilities(tensor(soft)), torch.tensor(labels), **options)
    expected = [nkd(s, q, q, y, **options) for s, q, y in zip(student, soft, labels, strict=True)]
    assert found.tolist() == pytest.approx(expected, **CLOSE)


@settings(max_examples=25, deadline=None)
@given(cases(soft=st.integers(0, 4)), st.integers(0, 4))
def test_of_a_mixture_each_part_softens_its_scores_anew(case, quarters):
    student, counts, labels, options = case
    soft, teacher, weight = shares(counts), student[::-1], quarters / 4
    mixture = mix([weight, 1 - weight], [scores(tensor(teacher)), probabilities(tensor(soft))])
    found = nkd_loss(tensor(student), mixture, torch.tensor(labels), **options)
    expected = []
    for s, t, q, y in zip(student, teacher, soft, labels, strict=True):
        plain, softened = (
            [weight * a + (1 - weight) * b for a, b in zip(softmax(t, temperature), q, strict=True)]
            for temperature in (1.0, options["temperature"])
        )
        expected.append(nkd(s, plain, softened, y, **options))
    assert found.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-6)
