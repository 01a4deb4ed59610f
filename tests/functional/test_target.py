import torch

from kdzoo.functional.divergences import finite
from kdzoo.functional.target import shares_of_others, total_of_others


def test_others_hold_what_the_target_does_not():
    probs = torch.tensor([[0.5, 0.3, 0.2], [0.0, 0.0, 1.0]], dtype=torch.float64)
    target = torch.tensor([[1], [0]])
    total = total_of_others(probs.log(), target)
    torch.testing.assert_close(total.exp(), torch.tensor([[0.7], [1.0]], dtype=torch.float64))
    expected = torch.tensor([[5 / 7, 0.0, 2 / 7], [0.0, 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(shares_of_others(probs.log(), target, total), expected)


def test_where_the_target_holds_everything_no_distribution_is_left():
    log_probs, target = torch.tensor([[0.0, 1.0, 0.0]]).log(), torch.tensor([[1]])
    total = total_of_others(log_probs, target)
    assert total.item() == -torch.inf
    assert torch.equal(shares_of_others(log_probs, target, finite(total)), torch.zeros(1, 3))
