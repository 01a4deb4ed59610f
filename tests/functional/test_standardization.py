"""Logit standardisation, alone and as the option of methods on logits."""

import statistics

import pytest
import torch

from kdzoo.checks import UsageError
from kdzoo.distillers import build_distiller
from kdzoo.functional.standardization import comparable, standardized
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, Setting, Shapes, mix, probabilities, scores

SETTING = Setting(Shapes((5,), (4,), None, None), None, None, 5, torch.zeros(6, dtype=torch.int64))


def drawn(seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return 3 * torch.randn(6, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_rows_have_mean_0_and_the_populations_deviation_1():
    logits = drawn(0)
    for row, given in zip(standardized(logits).tolist(), logits.tolist(), strict=True):
        mean, deviation = statistics.fmean(given), statistics.pstdev(given)
        assert row == pytest.approx([(v - mean) / deviation for v in given], rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_size_and_shift_are_lost_and_equal_logits_take_no_gradient(dtype):
    logits = drawn(0, dtype)
    torch.testing.assert_close(standardized(1e4 * logits + 7), standardized(logits), rtol=1e-4, atol=1e-4)
    logits[2] = 4.0
    leaf = logits.requires_grad_()
    found = standardized(leaf)
    assert found[2].tolist() == [0.0] * 5
    (gradient,) = torch.autograd.grad((found * drawn(1, dtype)).sum(), leaf)
    assert gradient.isfinite().all()
    assert gradient[2].tolist() == [0.0] * 5


@pytest.mark.parametrize("method", ["kd", "dkd", "ctkd", "nkd", "wsld", "dist", "mlkd"])
def test_a_teachers_size_no_longer_matters_to_methods(method):
    student, labels = drawn(0), torch.arange(6) % 5

    def term(options, size):
        distiller = build_distiller(method, SETTING, options)
        assert distiller.needs_scores is bool(options)
        guide = Guide(scores(size * drawn(1)), {})
        terms = distiller(ModelOutput(student), guide, Batch(None, labels, None), Progress(0, 9, 0, 1))
        return torch.stack(list(terms.values())).sum()

    torch.testing.assert_close(term({"standardize": "true"}, 1.0), term({"standardize": "true"}, 5.0))
    assert (term({}, 1.0) - term({}, 5.0)).abs() > 1e-3
    assert (term({"standardize": "true"}, 1.0) - term({}, 1.0)).abs() > 1e-3


def test_probabilities_are_no_scores():
    soft = probabilities(torch.full((6, 5), 0.2, dtype=torch.float64))
    assert comparable(drawn(0), soft, False)[1] is soft
    for refused in (soft, mix([0.5, 0.5], [soft, scores(drawn(1))])):
        with pytest.raises(UsageError, match=r"^kdzoo: soft labels must be scores, such as a teacher's, got"):
            comparable(drawn(0), refused, True)
