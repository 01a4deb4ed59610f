"""What every registered network promises, looped over the registry; families by some of their members."""

import itertools

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from kdzoo.models import build_model, count_parameters, flops, output_shapes
from kdzoo.models.base import Family
from kdzoo.outputs import ModelOutput, shapes_of
from kdzoo.registry import MODELS

CHANNELS, CLASSES, SIZE = 3, 10, 32
FAMILIES = {
    n for n in MODELS.names() if isinstance(MODELS.find(n), type) and issubclass(MODELS.find(n), Family)
}
# Unlike each other: plain and inverted bottlenecks, channels last, tokens, a linear and a convolutional head.
MEMBERS = (
    "module:toynets.ConvHead",
    "module:toynets.Plain",
    "timm:convnext_atto",
    "timm:mobilenetv3_small_050",
    "timm:resnet18",
    "timm:resnetv2_18",
    "timm:vit_tiny_patch16_224",
    "torchvision:mobilenet_v3_small",
    "torchvision:resnet18",
)
# What networks from elsewhere cannot promise. Each exemption is held to be true.
WITHOUT_PREACTIVATIONS = set(MEMBERS)
STAGES_OF_ONE_SIZE = {"timm:vit_tiny_patch16_224"}
CLASSIFIER_IS_A_CONVOLUTION = {"module:toynets.ConvHead", "timm:resnetv2_18"}
# Their maps of 32x32 images are smaller, and so is what a parameter does.
FEWER_PRODUCTS = set(MEMBERS)
# Their libraries read numbers while they are built, and fake tensors have none.
BUILT_ON_THE_CPU = set(MEMBERS)
# Their last norms and shortcuts are computed in float32 even then.
KEPT_IN_FLOAT32 = {"timm:convnext_atto", "timm:vit_tiny_patch16_224"}


def build(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(name, num_classes=CLASSES, channels=CHANNELS, size=SIZE)


def images(count: int) -> torch.Tensor:
    return torch.randn(count, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def tensors(output: ModelOutput) -> list[torch.Tensor]:
    found = [output.embedding, *output.stages, *(output.preactivations or ())]
    return found if output.logits is None else [output.logits, *found]


def bits_equal(one: ModelOutput, other: ModelOutput) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


def moved(network: nn.Module) -> nn.Module:
    """Give a network new tensors on the default device, in place of its own."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype)))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.zeros(buffer.shape, dtype=buffer.dtype))
    return network


@pytest.fixture(scope="module", params=MEMBERS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    network = build(request.param)
    network.registered_name = request.param
    return network


def test_every_family_is_represented():
    assert {name.partition(":")[0] for name in MEMBERS} == FAMILIES


def test_shapes_are_those_of_a_model_output(network):
    with torch.no_grad():
        output = network.eval()(images(2))
    assert type(output) is ModelOutput
    linear = network.registered_name not in CLASSIFIER_IS_A_CONVOLUTION
    assert hasattr(network, "classifier") == (output.logits is not None and linear)
    assert output.logits is None or output.logits.shape == (2, CLASSES)
    assert output.embedding.ndim == 2
    assert all(stage.ndim == 4 and stage.shape[2] == stage.shape[3] for stage in output.stages)
    widths = [stage.shape[2] for stage in output.stages]
    assert len(widths) > 1
    if network.registered_name in STAGES_OF_ONE_SIZE:
        assert len(set(widths)) == 1
    else:
        assert all(fine > coarse for fine, coarse in itertools.pairwise(widths))
    assert shapes_of(output) == output_shapes(network, CHANNELS, SIZE)
    assert all(len(tensor) == 2 and tensor.is_contiguous() for tensor in tensors(output))


def test_embedding_feeds_the_classifier(network):
    if network.registered_name in CLASSIFIER_IS_A_CONVOLUTION:
        weight = network.network.get_submodule(*network.heads).weight
        assert weight.shape == (CLASSES, output_shapes(network, CHANNELS, SIZE).embedding[0], 1, 1)
        return
    if not hasattr(network, "classifier"):
        pytest.skip("classifies nothing")
    assert isinstance(network.classifier, nn.Linear)
    with torch.no_grad():
        output = network.eval()(images(2))
        assert torch.equal(network.classifier(output.embedding), output.logits)


@pytest.mark.parametrize("training", [True, False])
def test_stages_are_the_rectified_preactivations(network, training):
    with torch.no_grad():
        output = network.train(training)(images(2))
    if network.registered_name in WITHOUT_PREACTIVATIONS:
        assert output.preactivations is None
        return
    for stage, preactivation in zip(output.stages, output.preactivations, strict=True):
        assert torch.equal(stage, preactivation.relu())
        assert (preactivation < 0).any()


@pytest.mark.parametrize("training", [True, False])
def test_forward_and_backward_are_finite_from_everything_returned(network, training):
    network.train(training).zero_grad()
    output = network(images(2))
    answers = tensors(output) + ([network.reconstruct(output.embedding)] if output.logits is None else [])
    sum(answer.square().mean() for answer in answers).backward()
    assert all(answer.isfinite().all() for answer in answers)
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert [name for name, gradient in gradients.items() if not gradient.isfinite().all()] == []
    network.zero_grad()


def test_batch_of_one_is_taken_in_evaluation_mode(network):
    with torch.no_grad():
        output = network.eval()(images(1))
    assert all(len(tensor) == 1 and tensor.isfinite().all() for tensor in tensors(output))


def test_forward_runs_in_bfloat16_under_autocast(network):
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = network.eval()(images(1))
    wide = network.registered_name in KEPT_IN_FLOAT32
    assert output.stages[-1].dtype == (torch.float32 if wide else torch.bfloat16)
    assert all(tensor.isfinite().all() for tensor in tensors(output))


def test_initial_weights_depend_on_the_seed_of_the_global_generator_alone(network):
    first = dict(network.named_parameters())
    same = dict(build(network.registered_name).named_parameters())
    other = dict(build(network.registered_name, seed=1).named_parameters())
    assert first.keys() == same.keys() == other.keys()
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert all(not torch.equal(first[name], other[name]) for name in first if first[name].ndim > 1)


def test_state_dict_round_trip_gives_the_same_bits(network):
    copy = build(network.registered_name, seed=1)
    copy.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert bits_equal(network.eval()(images(2)), copy.eval()(images(2)))


def test_everything_stays_on_the_device_of_the_images(network):
    on_cpu = network.registered_name in BUILT_ON_THE_CPU
    elsewhere = build(network.registered_name) if on_cpu else network
    with FakeTensorMode(), torch.device("cuda"):
        elsewhere = moved(elsewhere) if on_cpu else build(network.registered_name)
        output = elsewhere(torch.randn(2, CHANNELS, SIZE, SIZE))
        restored = [elsewhere.reconstruct(output.embedding)] if output.logits is None else []
    assert {tensor.device.type for tensor in tensors(output) + restored} == {"cuda"}
    assert shapes_of(output) == output_shapes(network, CHANNELS, SIZE)


def test_channels_last_changes_no_shape_and_no_value_beyond_rounding(network):
    with torch.no_grad():
        plain = network.eval()(images(2))
        copy = build(network.registered_name)
        copy.load_state_dict(network.state_dict())
        output = copy.eval().to(memory_format=torch.channels_last)(
            images(2).contiguous(memory_format=torch.channels_last)
        )
    for expected, got in zip(tensors(plain), tensors(output), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_counting_leaves_the_network_as_it_was(network):
    before = {name: tensor.clone() for name, tensor in network.train().state_dict().items()}
    products = flops(network, CHANNELS, SIZE) / count_parameters(network)
    assert products > (0 if network.registered_name in FEWER_PRODUCTS else 4)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_no_channel_is_refused(network):
    with pytest.raises(ValueError, match="channels must be at least 1, got 0") as error:
        build_model(network.registered_name, num_classes=CLASSES, channels=0, size=SIZE)
    assert str(error.value) == f"model {network.registered_name}: channels must be at least 1, got 0."


def test_no_class_is_refused(network):
    if network.registered_name == "autoencoder":
        pytest.skip("classifies nothing")
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0") as error:
        build_model(network.registered_name, num_classes=0, channels=CHANNELS, size=SIZE)
    assert "\n" not in str(error.value)
