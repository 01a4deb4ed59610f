"""ReffAKD's similarities, gamma and soft labels against loops over pairs of images."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pairloops import similarity, soft_labels

from kdzoo.sources.reffakd import class_similarity, smallest_gamma, soft_label_matrix


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
