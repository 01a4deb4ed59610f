import logging

import pytest
import torch
from torch import nn

from kdzoo.checks import UsageError
from kdzoo.models import build_model, count_parameters, flops
from kdzoo.models.base import check_input
from kdzoo.outputs import ModelOutput


def test_flops_are_silent(capfd, caplog):
    network = build_model("resnet8", num_classes=10, channels=3, size=32).eval()
    with caplog.at_level(logging.DEBUG):
        flops(network, 3, 32)
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")
    assert not any(module.training for module in network.modules())


def test_flops_restore_the_mode_after_an_error():
    network = build_model("lenet5", num_classes=10, channels=1, size=32)
    with pytest.raises(RuntimeError):
        flops(network, 1, 28)
    assert network.training


def test_flops_of_one_linear_layer_are_its_products():
    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.classifier = nn.Linear(2 * 8 * 8, 5)

        def forward(self, images):
            return ModelOutput(self.classifier(images.flatten(1)))

    assert flops(Linear(), 2, 8) == 2 * 8 * 8 * 5


def test_frozen_parameters_are_not_counted():
    network = build_model("lenet5", num_classes=10, channels=1, size=32)
    network.classifier.requires_grad_(False)
    assert count_parameters(network) == 61_750 - 850


def test_what_is_not_given_is_not_checked():
    check_input("model x")
    check_input("model x", num_classes=1, channels=1, size=8, smallest=8)
    with pytest.raises(UsageError, match=r"^model x: size must be at least 8, got 7\.$"):
        check_input("model x", num_classes=1, channels=1, size=7, smallest=8)


def test_unknown_name_and_option_have_their_nearest_matches():
    with pytest.raises(UsageError, match=r"there is no model 'resnet21'\. Did you mean .*'resnet20'"):
        build_model("resnet21", num_classes=10, channels=3, size=32)
    with pytest.raises(
        UsageError, match=r"^model resnet18: there is no option 'heads'\. Did you mean 'head'\?"
    ):
        build_model("resnet18", num_classes=10, channels=3, size=32, options={"heads": "auto"})
    with pytest.raises(UsageError, match=r"^model lenet5: it has no options, got 'head'\.$"):
        build_model("lenet5", num_classes=10, channels=3, size=32, options={"head": "auto"})


def test_building_draws_from_the_global_generator_only():
    torch.manual_seed(3)
    build_model("resnet8", num_classes=10, channels=3, size=32)
    position = torch.get_rng_state()
    torch.manual_seed(3)
    build_model("resnet8", num_classes=10, channels=3, size=32)
    assert torch.equal(position, torch.get_rng_state())
