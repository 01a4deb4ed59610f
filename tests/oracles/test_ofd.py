"""OFD against the paper's definitions, written out in plain Python."""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdzoo.distillers.ofd import margin_relu, margins_of, ofd_loss


def partial_distance(student: list[float], target: list[float]) -> float:
    """d_p(T, S): zero where S <= T <= 0, and (T - S)^2 everywhere else."""
    return sum(0.0 if s <= t <= 0 else (t - s) ** 2 for s, t in zip(student, target, strict=True))


def negative_mean(scale: float, shift: float) -> float:
    """E[x | x < 0] of a normal x, by summing its density over narrow bins."""
    normal, bins = statistics.NormalDist(shift, abs(scale)), 200_000
    low = min(0.0, shift) - 12 * abs(scale)
    width = -low / bins
    places = [low + (i + 0.5) * width for i in range(bins)]
    weights = [normal.pdf(x) for x in places]
    return sum(x * w for x, w in zip(places, weights, strict=True)) / sum(weights)


@st.composite
def maps(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = [draw(st.integers(1, 3)) for _ in range(4)]
    student, teacher = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    margins = -torch.rand(shape[1], generator=generator, dtype=torch.float64)
    return student, teacher, margins


@settings(max_examples=60, deadline=None)
@given(maps())
def test_the_loss_is_the_papers(drawn):
    student, teacher, margins = drawn
    found = ofd_loss(student, margin_relu(teacher, margins))
    total = 0.0
    for i in range(len(student)):
        for c, margin in enumerate(margins.tolist()):
            # The margin ReLU: max(x, m) of the channel.
            target = [max(x, margin) for x in teacher[i, c].flatten().tolist()]
            total += partial_distance(student[i, c].flatten().tolist(), target)
    assert found.item() == pytest.approx(total / len(student), rel=1e-12)


@pytest.mark.parametrize(
    ("scale", "shift"), [(1.0, 0.0), (-1.0, 0.0), (0.5, 0.3), (2.0, -1.0), (0.1, -3.0), (1.0, 3.0)]
)
def test_a_margin_is_the_mean_of_the_negative_values(scale, shift):
    found = margins_of(torch.tensor([scale]), torch.tensor([shift])).item()
    assert found == pytest.approx(negative_mean(scale, shift), rel=1e-6)


def test_a_channel_that_is_hardly_ever_negative_has_a_margin_of_three_deviations():
    # P(x < 0) = 0.00097 and 0.00104.
    rare, common = margins_of(torch.tensor([2.0, 2.0]), torch.tensor([6.2, 6.15])).tolist()
    assert rare == -6.0
    assert common == pytest.approx(negative_mean(2.0, 6.15), rel=1e-6)
    assert math.isclose(margins_of(torch.tensor([1e-3]), torch.tensor([5.0])).item(), -3e-3, rel_tol=1e-6)


def test_a_channel_that_never_varies_has_its_own_value_or_zero_as_margin():
    assert margins_of(torch.zeros(3), torch.tensor([-2.0, 0.5, 0.0])).tolist() == [-2.0, 0.0, 0.0]
