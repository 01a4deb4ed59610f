import pytest
import torch

from kdzoo.checks import UsageError
from kdzoo.outputs import ModelOutput, Shapes, mix, probabilities, scores, shapes_of

LOGITS = torch.tensor([[2.0, 0.0, -4.0], [0.5, 0.5, 1.0]], dtype=torch.float64)
SHARES = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]], dtype=torch.float64)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_the_temperature_divides_scores_and_leaves_probabilities(temperature):
    close(scores(LOGITS).log_probs(temperature).exp(), torch.softmax(LOGITS / temperature, dim=1))
    assert torch.equal(probabilities(SHARES).log_probs(temperature), SHARES.log())


def test_scores_of_any_size_stay_finite():
    large = scores(torch.tensor([[1e4, 0.0, -1e4]])).log_probs(1.0)
    assert large.tolist() == [[0.0, -1e4, -2e4]]


def test_a_probability_of_zero_is_minus_infinity():
    assert probabilities(SHARES).log_probs(4.0)[1].tolist() == [0.0, -torch.inf, -torch.inf]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_mixture_averages_what_its_parts_became(temperature):
    mixed = mix([0.25, 0.75], [scores(LOGITS), probabilities(SHARES)]).log_probs(temperature)
    close(mixed.exp(), 0.25 * torch.softmax(LOGITS / temperature, dim=1) + 0.75 * SHARES)
    close(mixed.exp().sum(dim=1), torch.ones(2, dtype=torch.float64))


def test_a_weight_of_zero_leaves_a_part_out():
    for part in (scores(LOGITS), probabilities(SHARES)):
        mixed = mix([0, 1], [probabilities(SHARES.flip(1)), part]).log_probs(3.0)
        close(mixed, part.log_probs(3.0))


def test_where_all_parts_have_zero_the_mixture_has_zero():
    mixed = mix([0.5, 0.5], [probabilities(SHARES), probabilities(SHARES)]).log_probs(1.0)
    assert mixed[1].tolist() == [0.0, -torch.inf, -torch.inf]


def test_a_mixture_of_mixtures_is_a_mixture():
    parts = [scores(LOGITS), probabilities(SHARES), scores(2 * LOGITS)]
    nested = mix([0.5, 0.5], [mix([0.5, 0.5], parts[:2]), parts[2]])
    close(nested.log_probs(2.0), mix([0.25, 0.25, 0.5], parts).log_probs(2.0))


@pytest.mark.parametrize("weights", [[0.5, 0.25, 0.25], [1.5, -0.5], [0.5, 0.4]])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(UsageError, match="mix: weights must be 2 numbers, none negative, summing to 1"):
        mix(weights, [scores(LOGITS), scores(LOGITS)])


def test_shapes_leave_the_batch_out():
    stages = (torch.zeros(5, 6, 28, 28), torch.zeros(5, 16, 10, 10))
    output = ModelOutput(torch.zeros(5, 10), torch.zeros(5, 84), stages)
    assert shapes_of(output) == Shapes((10,), (84,), ((6, 28, 28), (16, 10, 10)), None)
    assert shapes_of(ModelOutput(None)) == Shapes(None, None, None, None)
