"""ReffAKD's similarities, gamma and soft labels against loops over pairs of images."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdzoo.sources.reffakd import class_similarity, smallest_gamma, soft_label_matrix


def cosine(one: list[float], other: list[float]) -> float:
    norms = math.hypot(*one) * math.hypot(*other)
    return sum(a * b for a, b in zip(one, other, strict=True)) / norms if norms else 0.0


def similarity(embeddings: list[list[float]], labels: list[int], classes: int) -> list[list[float]]:
    """Average the cosines of all pairs; inside a class of different images, each pair once."""
    found = []
    for i in range(classes):
        row = []
        for j in range(classes):
            ones = [n for n, y in enumerate(labels) if y == i]
            others = [n for n, y in enumerate(labels) if y == j]
            pairs = list(itertools.combinations(ones, 2) if i == j else itertools.product(ones, others))
            row.append(sum(cosine(embeddings[a], embeddings[b]) for a, b in pairs) / len(pairs))
        found.append(row)
    return found


def soft_labels(matrix: list[list[float]], gamma: float) -> list[list[float]]:
    found = []
    for i, row in enumerate(matrix):
        raised = [math.exp(z + (gamma if i == j else 0)) for j, z in enumerate(row)]
        found.append([e / sum(raised) for e in raised])
    return found


@st.composite
def embedded(draw):
    """Non-negative embeddings, as after a ReLU, some of them zero; at least two images of each class."""
    classes, width = draw(st.integers(2, 4)), draw(st.integers(1, 4))
    extra = draw(st.lists(st.integers(0, classes - 1), max_size=5))
    labels = draw(st.permutations([*range(classes), *range(classes), *extra]))
    element = st.sampled_from([0.0, 0.25, 1.0, 3.0, 17.5])
    row = st.lists(element, min_size=width, max_size=width)
    return draw(st.lists(row, min_size=len(labels), max_size=len(labels))), labels, classes


@settings(deadline=None, max_examples=60)
@given(embedded(), st.floats(0, 2))
def test_similarity_gamma_and_labels(case, gamma):
    embeddings, labels, classes = case
    found = class_similarity(torch.tensor(embeddings, dtype=torch.float64), torch.tensor(labels), classes)
    expected = similarity(embeddings, labels, classes)
    assert found.flatten().tolist() == pytest.approx([*itertools.chain(*expected)], rel=1e-9, abs=1e-12)
    needed = max(max(z for j, z in enumerate(row) if j != i) - row[i] for i, row in enumerate(expected))
    assert smallest_gamma(found) == pytest.approx(needed, rel=1e-9, abs=1e-12)
    rows = soft_labels(expected, gamma)
    assert soft_label_matrix(found, gamma).flatten().tolist() == pytest.approx(
        [*itertools.chain(*rows)], rel=1e-9
    )


@settings(deadline=None, max_examples=40)
@given(embedded())
def test_gamma_is_the_smallest_that_puts_every_class_first(case):
    embeddings, labels, classes = case
    matrix = class_similarity(torch.tensor(embeddings, dtype=torch.float64), torch.tensor(labels), classes)
    gamma = smallest_gamma(matrix)
    above, below = soft_label_matrix(matrix, gamma + 1e-6), soft_label_matrix(matrix, gamma - 1e-6)
    assert above.argmax(dim=1).tolist() == list(range(classes))
    assert below.argmax(dim=1).tolist() != list(range(classes))
