import pytest
import torch

from kdzoo.checks import UsageError
from kdzoo.models import build_model, count_parameters, output_shapes


def test_parameters_are_those_of_the_paper():
    assert count_parameters(build_model("lenet5", num_classes=10, channels=1, size=32)) == 61_750


def test_it_has_two_stages_before_their_pooling():
    shapes = output_shapes(build_model("lenet5", num_classes=7, channels=3, size=32), 3, 32)
    assert shapes.logits == (7,)
    assert shapes.embedding == (84,)
    assert shapes.stages == shapes.preactivations == ((6, 28, 28), (16, 10, 10))


def test_embedding_is_rectified():
    network = build_model("lenet5", num_classes=10, channels=1, size=32)
    assert (network(torch.randn(4, 1, 32, 32)).embedding >= 0).all()


@pytest.mark.parametrize("size", [0, 28, 31, 33, 64])
def test_other_sizes_are_refused(size):
    with pytest.raises(UsageError) as error:
        build_model("lenet5", num_classes=10, channels=1, size=size)
    advice = "Resize them by --cfg-options views.resize=32, or take --student resnet8 or another."
    assert str(error.value) == f"model lenet5: size must be 32, got {size}. {advice}"
