import pytest
import torch
from torch import nn

from kdzoo.functional.normalisation import BatchNorm

SHAPES = [(3, 2, 4, 4), (1, 2, 4, 4), (3, 2, 1, 1)]


def pair() -> tuple[BatchNorm, nn.BatchNorm2d]:
    ours, theirs = BatchNorm(2), nn.BatchNorm2d(2)
    for norm in (ours, theirs):
        with torch.no_grad():
            norm.weight.copy_(torch.tensor([2.0, 3.0]))
            norm.bias.copy_(torch.tensor([0.5, -0.5]))
            norm.running_mean.copy_(torch.tensor([1.0, -1.0]))
            norm.running_var.copy_(torch.tensor([4.0, 0.25]))
    return ours, theirs


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_torchs_own_where_a_channel_has_several_numbers(shape, training):
    ours, theirs = pair()
    maps = torch.randn(shape)
    assert torch.equal(ours.train(training)(maps), theirs.train(training)(maps))
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)


@pytest.mark.parametrize("training", [True, False])
def test_a_single_number_is_normalised_by_the_running_statistics(training):
    ours, theirs = pair()
    lonely = torch.tensor([3.0, 1.0]).view(1, 2, 1, 1).requires_grad_()
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    found = ours.train(training)(lonely)
    assert torch.equal(found, theirs.eval()(lonely))
    found.sum().backward()
    torch.testing.assert_close(lonely.grad.flatten(), torch.tensor([1.0, 6.0]), rtol=1e-4, atol=0)
    assert all(torch.equal(ours.state_dict()[name], value) for name, value in before.items())
    with pytest.raises(ValueError, match="more than 1 value"):
        theirs.train()(lonely)
