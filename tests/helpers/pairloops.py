"""ReffAKD's soft labels in loops over pairs of images, as the paper spells them."""

import itertools
import math


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


def enough(matrix: list[list[float]]) -> float:
    """Find the gamma that puts every class first in its own row, and a little more."""
    lacking = [max(z for j, z in enumerate(row) if j != i) - row[i] for i, row in enumerate(matrix)]
    return max(0.0, max(lacking) + 1e-6)


def soft_labels(matrix: list[list[float]], gamma: float) -> list[list[float]]:
    """Raise the diagonal, and turn each row into a distribution."""
    found = []
    for i, row in enumerate(matrix):
        raised = [math.exp(z + (gamma if i == j else 0)) for j, z in enumerate(row)]
        found.append([e / sum(raised) for e in raised])
    return found
