"""KD, DKD and cross-entropy against the papers' formulas, written out in loops of plain Python."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdzoo.distillers.dkd import dkd_loss
from kdzoo.distillers.kd import kd_loss
from kdzoo.functional.divergences import cross_entropy, kl_divergence
from kdzoo.outputs import mix, probabilities, scores

Row = list[float]
CLOSE = {"rel": 1e-9, "abs": 1e-9}


def softmax(row: Row, temperature: float = 1.0) -> Row:
    """Hinton, eq. 1: q_i = exp(z_i / T) / sum_j exp(z_j / T)."""
    exponentials = [math.exp(z / temperature) for z in row]
    return [e / sum(exponentials) for e in exponentials]


def kl(target: Row, other: Row) -> float:
    return sum(p * math.log(p / q) for p, q in zip(target, other, strict=True) if p > 0)


def kd(student: Row, target: Row, temperature: float) -> float:
    """Hinton, section 2: the soft targets' divergence, times T^2."""
    return temperature**2 * kl(target, softmax(student, temperature))


def binary(probs: Row, label: int) -> Row:
    """Zhao, eq. 1: the target class against all others."""
    return [probs[label], sum(p for k, p in enumerate(probs) if k != label)]


def hat(probs: Row, label: int) -> Row:
    """Zhao, eq. 2: among the other classes alone."""
    total = sum(p for k, p in enumerate(probs) if k != label)
    return [p / total for k, p in enumerate(probs) if k != label] if total else []


def tckd(student: Row, target: Row, label: int, temperature: float) -> float:
    """Zhao, eq. 6, first part."""
    return kl(binary(target, label), binary(softmax(student, temperature), label))


def nckd(student: Row, target: Row, label: int, temperature: float) -> float:
    """Zhao, eq. 6, second part; nothing is left to compare where the target holds everything."""
    return kl(hat(target, label), hat(softmax(student, temperature), label)) if hat(target, label) else 0.0


logit = st.floats(-20, 20).map(lambda x: round(x, 6))
temperatures = st.sampled_from([0.5, 1.0, 2.5, 4.0, 20.0])


@st.composite
def cases(draw, soft=logit):
    """Student logits, numbers for the soft labels, labels, temperature."""
    count, classes = draw(st.integers(1, 4)), draw(st.integers(2, 6))

    def rows(element):
        row = st.lists(element, min_size=classes, max_size=classes)
        return draw(st.lists(row, min_size=count, max_size=count))

    labels = draw(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count))
    return rows(logit), rows(soft), labels, draw(temperatures)


def shares(rows: list[list[int]]) -> list[Row]:
    """Probabilities with true zeros; a row of nothing is sure of its first class."""
    rows = [row if sum(row) else [1] + [0] * (len(row) - 1) for row in rows]
    return [[n / sum(row) for n in row] for row in rows]


def tensor(rows: list[Row]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@settings(deadline=None, max_examples=60)
@given(cases())
def test_kd_of_scores_is_hintons(case):
    student, teacher, _, temperature = case
    found = kd_loss(tensor(student), scores(tensor(teacher)), temperature=temperature)
    expected = [kd(s, softmax(t, temperature), temperature) for s, t in zip(student, teacher, strict=True)]
    assert found.tolist() == pytest.approx(expected, **CLOSE)


@settings(deadline=None, max_examples=60)
@given(cases(soft=st.integers(0, 4)))
def test_kd_of_probabilities_leaves_them_alone(case):
    """Doshi and Kim, eq. 2: the temperature divides the student's logits only."""
    student, counts, _, temperature = case
    soft = shares(counts)
    found = kd_loss(tensor(student), probabilities(tensor(soft)), temperature=temperature)
    expected = [kd(s, q, temperature) for s, q in zip(student, soft, strict=True)]
    assert found.tolist() == pytest.approx(expected, **CLOSE)
    by_element = kd_loss(
        tensor(student), probabilities(tensor(soft)), temperature=temperature, reduction="elementmean"
    )
    assert by_element.tolist() == pytest.approx([e / len(student[0]) for e in expected], **CLOSE)


@settings(deadline=None, max_examples=60)
@given(cases(soft=st.integers(0, 4)))
def test_kd_as_cross_entropy_is_the_notebooks(case):
    """ReffAKD's notebook for CIFAR-100: - T^2 sum_k q_k log p_k."""
    student, counts, _, temperature = case
    soft = shares(counts)
    found = kd_loss(
        tensor(student), probabilities(tensor(soft)), temperature=temperature, divergence="cross_entropy"
    )
    expected = [
        -(temperature**2) * sum(a * math.log(b) for a, b in zip(q, softmax(s, temperature), strict=True))
        for s, q in zip(student, soft, strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, **CLOSE)


@settings(deadline=None, max_examples=60)
@given(cases(), st.floats(0, 3), st.floats(0, 10))
def test_dkd_of_scores_is_zhaos_eq_7(case, alpha, beta):
    student, teacher, labels, temperature = case
    found = dkd_loss(
        tensor(student), scores(tensor(teacher)), torch.tensor(labels),
        alpha=alpha, beta=beta, temperature=temperature,
    )  # fmt: skip
    expected = []
    for s, t, y in zip(student, teacher, labels, strict=True):
        p = softmax(t, temperature)
        parts = alpha * tckd(s, p, y, temperature) + beta * nckd(s, p, y, temperature)
        expected.append(temperature**2 * parts)
    assert found.tolist() == pytest.approx(expected, rel=1e-7, abs=1e-7)


@settings(deadline=None, max_examples=60)
@given(cases(soft=st.integers(0, 4)), st.floats(0, 3), st.floats(0, 10))
def test_dkd_of_probabilities_takes_shares_of_the_rest(case, alpha, beta):
    student, counts, labels, temperature = case
    soft = shares(counts)
    found = dkd_loss(
        tensor(student), probabilities(tensor(soft)), torch.tensor(labels),
        alpha=alpha, beta=beta, temperature=temperature,
    )  # fmt: skip
    expected = [
        temperature**2 * (alpha * tckd(s, q, y, temperature) + beta * nckd(s, q, y, temperature))
        for s, q, y in zip(student, soft, labels, strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-7, abs=1e-7)


@settings(deadline=None, max_examples=40)
@given(cases())
def test_kd_is_tckd_and_the_rest_of_nckd(case):
    """Zhao, eq. 6: KD = TCKD + (1 - p_t) NCKD, which is what DKD takes apart."""
    student, teacher, labels, temperature = case
    s, t, y = tensor(student), tensor(teacher), torch.tensor(labels)
    parts = [dkd_loss(s, scores(t), y, alpha=a, beta=1 - a, temperature=temperature) for a in (1.0, 0.0)]
    rest = 1 - (t / temperature).softmax(dim=1)[torch.arange(len(y)), y]
    torch.testing.assert_close(
        kd_loss(s, scores(t), temperature=temperature), parts[0] + rest * parts[1], rtol=1e-7, atol=1e-7
    )


@settings(deadline=None, max_examples=40)
@given(cases())
def test_cross_entropy_is_minus_the_log_of_a_softmax(case):
    student, _, labels, _ = case
    expected = [-math.log(softmax(s)[y]) for s, y in zip(student, labels, strict=True)]
    assert cross_entropy(tensor(student), torch.tensor(labels)).tolist() == pytest.approx(expected, **CLOSE)


@settings(deadline=None, max_examples=40)
@given(cases(soft=st.integers(0, 4)))
def test_divergence_is_a_sum_over_what_is_possible(case):
    student, counts, _, _ = case
    soft = shares(counts)
    found = kl_divergence(tensor(soft).log(), tensor(student).log_softmax(dim=1))
    expected = [kl(q, softmax(s)) for s, q in zip(student, soft, strict=True)]
    assert found.tolist() == pytest.approx(expected, **CLOSE)
    assert (found > -1e-12).all()


@settings(deadline=None, max_examples=40)
@given(cases(soft=st.integers(0, 4)), st.integers(0, 4))
def test_a_mixture_averages_probabilities(case, quarters):
    """Scores are softened before they are averaged, probabilities are not."""
    teacher, counts, _, temperature = case
    soft, weight = shares(counts), quarters / 4
    mixed = mix([weight, 1 - weight], [scores(tensor(teacher)), probabilities(tensor(soft))])
    found = mixed.log_probs(temperature).exp().flatten().tolist()
    expected = [
        weight * p + (1 - weight) * q
        for t, row in zip(teacher, soft, strict=True)
        for p, q in zip(softmax(t, temperature), row, strict=True)
    ]
    assert found == pytest.approx(expected, **CLOSE)
