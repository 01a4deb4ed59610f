import pytest
import torch

from kdzoo.checks import UsageError
from kdzoo.models import build_model, count_parameters, flops, output_shapes


@pytest.mark.parametrize(("channels", "expected"), [(3, 47_355), (1, 46_585)])
def test_parameters_are_those_of_the_paper(channels, expected):
    network = build_model("autoencoder", num_classes=10, channels=channels, size=32)
    assert count_parameters(network) == expected


@pytest.mark.parametrize(("channels", "expected"), [(3, 1_474_560), (1, 1_277_952)])
def test_flops_are_those_that_the_paper_facts_state(channels, expected):
    network = build_model("autoencoder", num_classes=10, channels=channels, size=32)
    assert flops(network, channels, 32) == expected


@pytest.mark.parametrize(("size", "embedding"), [(8, 48), (32, 768), (64, 3072)])
@pytest.mark.parametrize("channels", [1, 3])
def test_it_embeds_and_reconstructs(channels, size, embedding):
    network = build_model("autoencoder", num_classes=10, channels=channels, size=size)
    shapes = output_shapes(network, channels, size)
    assert shapes.logits is None
    assert shapes.embedding == (embedding,)
    assert shapes.stages == shapes.preactivations
    assert shapes.stages == tuple((12 * 2**i, size // 2 ** (i + 1), size // 2 ** (i + 1)) for i in range(3))
    images = torch.randn(2, channels, size, size)
    restored = network.reconstruct(network(images).embedding)
    assert restored.shape == images.shape
    assert ((restored > 0) & (restored < 1)).all()


def test_embedding_is_the_flattened_last_stage_and_not_negative():
    network = build_model("autoencoder", num_classes=10, channels=3, size=32)
    output = network(torch.randn(2, 3, 32, 32))
    assert torch.equal(output.embedding, output.stages[-1].flatten(1))
    assert (output.embedding >= 0).all()


def test_number_of_classes_changes_nothing():
    weights = []
    for num_classes in (2, 100):
        torch.manual_seed(0)
        weights.append(build_model("autoencoder", num_classes=num_classes, channels=3, size=32).state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("size", [-8, 0, 28, 4, 33])
def test_sizes_that_do_not_halve_three_times_are_refused(size):
    with pytest.raises(UsageError) as error:
        build_model("autoencoder", num_classes=10, channels=3, size=size)
    message = f"model autoencoder: size must be a multiple of 8, got {size}. Resize the images."
    assert str(error.value) == message
