"""KDSVD against the paper's formulas: a whole decomposition by numpy, and loops of plain Python."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn.functional import adaptive_avg_pool2d

from kdzoo.distillers.kdsvd import kdsvd_loss

Image = list[list[list[float]]]
Vector = list[float]
# Two singular values, cosines or components that are closer than this may change places by rounding.
APART = 1e-3


@st.composite
def stages(draw, layout):
    """Student's and teacher's stages, any sizes, pooled as the layout says; equal channels for "channel"."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    samples, numbers = draw(st.integers(1, 3)), st.integers(2, 7)
    students, teachers = [], []
    for _ in range(draw(st.integers(2, 4))):
        shapes = [(draw(numbers), draw(numbers), draw(numbers)) for _ in range(2)]
        if layout == "channel":
            shapes[1] = (shapes[0][0], *shapes[1][1:])
        for found, shape in zip((students, teachers), shapes, strict=True):
            found.append(torch.randn(samples, *shape, generator=generator, dtype=torch.float64))
    return students, teachers


def matrix(image: Image, layout: str) -> list[Vector]:
    """Rows C*H of length W, or rows H*W of length C."""
    if layout == "width":
        return [row for channel in image for row in channel]
    return [
        [channel[h][w] for channel in image] for h in range(len(image[0])) for w in range(len(image[0][0]))
    ]


def apart(values: Vector) -> bool:
    return all(a - b > APART for a, b in pairwise(values))


def singular(image: Image, layout: str) -> tuple[list[Vector], Vector]:
    """The right singular vectors and values, by a whole decomposition."""
    _, values, vectors = np.linalg.svd(np.array(matrix(image, layout)), full_matrices=False)
    assume(apart((values / values[0]).tolist()) and values[-1] > APART * values[0])
    return vectors.tolist(), values.tolist()


def dot(one: Vector, other: Vector) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def guides(image: Image, k: int, layout: str) -> tuple[list[Vector], Vector]:
    """The teacher's first k, the largest component positive; their values as a vector of length 1."""
    vectors, values = singular(image, layout)
    assume(all(abs(max(v) + min(v)) > APART for v in vectors[:k]))
    turned = [[x if max(v) > -min(v) else -x for x in v] for v in vectors[:k]]
    length = math.sqrt(sum(x * x for x in values[:k]))
    return turned, [x / length for x in values[:k]]


def follower(guide: Vector, candidates: list[Vector]) -> Vector:
    """The student's vector with the largest absolute cosine, turned to the teacher's side (Lee, eq. 6)."""
    cosines = [dot(guide, c) for c in candidates]
    assume(apart(sorted(map(abs, cosines), reverse=True)))
    best = max(range(len(cosines)), key=lambda i: abs(cosines[i]))
    return [x if cosines[best] > 0 else -x for x in candidates[best]]


def kdsvd(students: list[Image], teachers: list[Image], k: int, layout: str) -> float:
    """One sample: Lee, eqs. 7 and 8, over successive stages a, b."""
    ours, theirs = [], []
    for s, t in zip(students, teachers, strict=True):
        vectors, weights = guides(t, k, layout)
        candidates = singular(s, layout)[0][: k + 3]
        theirs.append([[w * x for x in v] for w, v in zip(weights, vectors, strict=True)])
        ours.append([[w * x for x in follower(v, candidates)] for w, v in zip(weights, vectors, strict=True)])
    total = 0.0
    for a in range(len(ours) - 1):
        for j in range(k):
            for p in range(len(ours[a + 1][j])):
                for q in range(len(ours[a][j])):
                    r = [math.exp(-((v[a + 1][j][p] - v[a][j][q]) ** 2) / 8) for v in (ours, theirs)]
                    total += (r[0] - r[1]) ** 2
    return total


@pytest.mark.parametrize("layout", ["width", "channel"])
@settings(deadline=None, derandomize=True, max_examples=30)
@given(data=st.data(), k=st.integers(1, 2))
def test_kdsvd_is_the_papers_with_a_whole_decomposition(layout, data, k):
    students, teachers = data.draw(stages(layout))
    found = kdsvd_loss(students, teachers, k=k, layout=layout).item()
    if layout == "width":
        sizes = [tuple(map(min, s.shape[2:], t.shape[2:])) for s, t in zip(students, teachers, strict=True)]
        students, teachers = (
            [adaptive_avg_pool2d(x, size) for x, size in zip(xs, sizes, strict=True)]
            for xs in (students, teachers)
        )
    expected = [
        kdsvd([s[n].tolist() for s in students], [t[n].tolist() for t in teachers], k, layout)
        for n in range(len(students[0]))
    ]
    assert found == pytest.approx(sum(expected) / len(expected), rel=1e-8, abs=1e-12)
