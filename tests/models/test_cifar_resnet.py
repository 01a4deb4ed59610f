import math

import pytest
from torch import nn

from kdzoo.checks import UsageError
from kdzoo.models import build_model, count_parameters, output_shapes

DEPTHS = (8, 14, 20, 32, 44, 56, 110)


@pytest.mark.parametrize("depth", DEPTHS)
def test_parameters_are_those_of_the_architecture_spelled_out(depth):
    total, inputs = 9 * 3 * 16 + 2 * 16, 16
    for width in (16, 32, 64):
        for _ in range((depth - 2) // 6):
            total += 9 * inputs * width + 9 * width * width + 2 * 2 * width
            if inputs != width:
                total += inputs * width + 2 * width
            inputs = width
    total += 64 * 100 + 100
    assert count_parameters(build_model(f"resnet{depth}", num_classes=100, channels=3, size=32)) == total


@pytest.mark.parametrize("depth", DEPTHS)
def test_depth_counts_the_layers_on_the_longest_path(depth):
    network = build_model(f"resnet{depth}", num_classes=10, channels=3, size=32)
    layers = [n for n, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len([name for name in layers if "shortcut" not in name]) == depth


@pytest.mark.parametrize(("size", "sides"), [(32, (32, 16, 8)), (4, (4, 2, 1)), (9, (9, 5, 3))])
def test_it_has_three_stages(size, sides):
    shapes = output_shapes(build_model("resnet8", num_classes=7, channels=1, size=size), 1, size)
    widths = (16, 32, 64)
    assert shapes.stages == shapes.preactivations
    assert shapes.stages == tuple((width, side, side) for width, side in zip(widths, sides, strict=True))
    assert shapes.embedding == (64,)
    assert shapes.logits == (7,)


def test_convolutions_start_with_he_weights_by_fan_out():
    network = build_model("resnet56", num_classes=10, channels=3, size=32)
    for module in network.stages[2].modules():
        if isinstance(module, nn.Conv2d):
            expected = math.sqrt(2 / (module.out_channels * module.kernel_size[0] ** 2))
            assert float(module.weight.detach().std()) == pytest.approx(expected, rel=0.08)
            assert module.bias is None


def test_small_images_are_refused():
    with pytest.raises(UsageError) as error:
        build_model("resnet20", num_classes=10, channels=3, size=3)
    assert str(error.value) == "model resnet20: size must be at least 4, got 3."
