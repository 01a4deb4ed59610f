"""What the families of KD tables have each of its own: sizes, options, initial weights."""

import math

import pytest
import torch
from torch import nn

from kdzoo.checks import UsageError, options_of
from kdzoo.models import build_model, output_shapes
from kdzoo.registry import MODELS

SMALLEST = {
    "resnet8x4": 4, "resnet32x4": 4,
    "wrn_16_1": 4, "wrn_16_2": 4, "wrn_40_1": 4, "wrn_40_2": 4,
    "vgg8": 8, "vgg11": 8, "vgg13": 8, "vgg16": 8, "vgg19": 8,
    "mobilenetv2": 16, "shufflenetv1": 8, "shufflenetv2": 8,
}  # fmt: skip
# Channels of the stages, and by which power of two each is smaller than the image.
STAGES = {
    "resnet8x4": ((64, 128, 256), (0, 1, 2)),
    "wrn_16_1": ((16, 32, 64), (0, 1, 2)),
    "wrn_16_2": ((32, 64, 128), (0, 1, 2)),
    "vgg8": ((128, 256, 512), (1, 2, 3)),
    "mobilenetv2": ((12, 16, 48, 160), (1, 2, 3, 4)),
    "shufflenetv1": ((240, 480, 960), (1, 2, 3)),
    "shufflenetv2": ((116, 232, 464), (1, 2, 3)),
}
EMBEDDINGS = {
    "resnet8x4": 256, "wrn_16_1": 64, "wrn_16_2": 128, "vgg8": 512, "mobilenetv2": 1280, "shufflenetv1": 960,
    "shufflenetv2": 1024,
}  # fmt: skip


def shapes(name, size):
    return output_shapes(build_model(name, num_classes=7, channels=1, size=size), 1, size)


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("size", [32, 64, "smallest"])
def test_stages_halve_from_the_size_of_the_image(name, size):
    size = SMALLEST[name] if size == "smallest" else size
    widths, powers = STAGES[name]
    if name == "vgg8" and size == 64:
        widths, powers = (128, 256, 512, 512), (1, 2, 3, 4)
    found = shapes(name, size)
    expected = tuple((w, size // 2**p, size // 2**p) for w, p in zip(widths, powers, strict=True))
    assert found.stages == found.preactivations == expected
    assert found.embedding == (EMBEDDINGS[name],)
    assert found.logits == (7,)


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("size", [33, 67])
def test_odd_sizes_have_strictly_smaller_stages_too(name, size):
    sides = [shape[1] for shape in shapes(name, size).stages]
    assert sides == sorted(set(sides), reverse=True)
    assert sides[-1] >= 1


@pytest.mark.parametrize("name", SMALLEST)
def test_images_that_are_too_small_are_refused(name):
    least = SMALLEST[name]
    with pytest.raises(UsageError) as error:
        build_model(name, num_classes=10, channels=3, size=least - 1)
    assert str(error.value) == f"model {name}: size must be at least {least}, got {least - 1}."


@pytest.mark.parametrize("name", ["wrn_16_2", "vgg8", "mobilenetv2", "resnet8x4"])
def test_convolutions_start_with_he_weights_by_fan_out(name):
    torch.manual_seed(0)
    network = build_model(name, num_classes=10, channels=3, size=32)
    checked = 0
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            expected = math.sqrt(2 / (module.out_channels * module.kernel_size[0] ** 2))
            assert float(module.weight.detach().std()) == pytest.approx(expected, rel=0.05)
            checked += 1
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            assert not module.bias.any()
    assert checked > 3


@pytest.mark.parametrize("name", ["vgg8", "mobilenetv2"])
def test_their_classifiers_start_small(name):
    network = build_model(name, num_classes=100, channels=3, size=32)
    assert float(network.classifier.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
    assert not network.classifier.bias.any()


def test_classifier_of_wide_networks_starts_without_bias():
    assert not build_model("wrn_16_2", num_classes=100, channels=3, size=32).classifier.bias.any()


@pytest.mark.parametrize("name", ["shufflenetv1", "shufflenetv2"])
def test_shuffle_networks_start_as_torch_starts_them(name):
    torch.manual_seed(0)
    network = build_model(name, num_classes=10, channels=3, size=32)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            bound = 1 / math.sqrt(module.weight[0].numel())
            assert float(module.weight.detach().abs().max()) == pytest.approx(bound, rel=0.01)


@pytest.mark.parametrize("name", ["wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2"])
def test_dropout_is_an_option_of_wide_networks_and_off(name):
    (option,) = options_of(MODELS.find(name)).values()
    assert (option.name, option.default) == ("dropout", 0.0)
    assert "RepDistiller" in option.doc
    with pytest.raises(UsageError, match=rf"^model {name}: dropout must be a number in \[0, 1\), got 1\.$"):
        build_model(name, num_classes=10, channels=3, size=32, options={"dropout": 1})


def test_dropout_drops_in_training_alone():
    images, outputs = torch.randn(2, 3, 8, 8), []
    for dropout in (0.0, 0.3):
        torch.manual_seed(0)
        network = build_model("wrn_16_1", num_classes=5, channels=3, size=8, options={"dropout": dropout})
        for training in (True, False):
            before = torch.get_rng_state()
            outputs.append(network.train(training)(images).logits)
            drew = not torch.equal(before, torch.get_rng_state())
            assert drew == (training and dropout > 0)
    assert not torch.equal(outputs[0], outputs[2])


def test_dropout_changes_no_name():
    plain = build_model("wrn_16_1", num_classes=5, channels=3, size=8)
    dropping = build_model("wrn_16_1", num_classes=5, channels=3, size=8, options={"dropout": 0.3})
    dropping.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(plain.eval()(images).logits, dropping.eval()(images).logits)


def test_wide_networks_compute_each_batch_norm_once():
    """Their stages are what the next block starts with, not a second pass of its batch norm."""
    network = build_model("wrn_16_2", num_classes=5, channels=3, size=8)
    calls = []
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    network(torch.randn(2, 3, 8, 8))
    assert len(calls) == len(set(calls)) == 13
