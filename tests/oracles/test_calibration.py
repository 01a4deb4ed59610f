"""The calibration error against Guo et al.'s bins, one by one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdzoo.training.evaluation import ECE_BINS, calibration_error


def guo(confidences: list[float], correct: list[bool], bins: int) -> float:
    """Eqs. 1 to 3: the gap of each bin (low, high], weighed by the bin's share of the samples."""
    total = 0.0
    for b in range(bins):
        inside = [n for n, c in enumerate(confidences) if b / bins < c <= (b + 1) / bins]
        if inside:
            accuracy = sum(correct[n] for n in inside) / len(inside)
            confidence = sum(confidences[n] for n in inside) / len(inside)
            total += len(inside) / len(confidences) * abs(accuracy - confidence)
    return total


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(2, 12), st.sampled_from([1, 2, 10, ECE_BINS]))
def test_calibration_error_is_guos(seed, count, classes, bins):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (count,), generator=generator)
    confidences, predicted = logits.softmax(dim=1).max(dim=1)
    expected = guo(confidences.tolist(), (predicted == labels).tolist(), bins)
    assert calibration_error(logits, labels, bins).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_fifteen_bins_and_a_border_belongs_below():
    assert ECE_BINS == 15
    # Confidence 1/3 is the border of bins 5 and 6; 0.35 lies in bin 6. Apart, their gaps do not cancel.
    logits = torch.log(torch.tensor([[1 / 3, 1 / 3, 1 / 3], [0.35, 0.325, 0.325]], dtype=torch.float64))
    error = calibration_error(logits, torch.tensor([int(logits[0].argmax()), 1]))
    assert error.item() == pytest.approx((2 / 3 + 0.35) / 2, rel=1e-6)


def test_sure_and_right_is_no_error_and_sure_and_wrong_is_all():
    logits = torch.tensor([[100.0, 0.0], [0.0, 100.0]])
    assert calibration_error(logits, torch.tensor([0, 1])).item() == 0
    assert calibration_error(logits, torch.tensor([1, 0])).item() == 1
