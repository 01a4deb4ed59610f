"""What every registered network promises, looped over the registry."""

import copy
import itertools
import re
import typing

import pytest
import torch
from ownmodels import OWN
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import kdzoo
from kdzoo.methods import TABLE8
from kdzoo.models import build_model, count_parameters, flops, output_shapes
from kdzoo.outputs import ModelOutput, shapes_of
from kdzoo.registry import MODELS

CHANNELS, CLASSES = 3, 10
# Small enough for the deepest networks to be quick; LeNet-5 takes no other.
SIZE = {"lenet5": 32}
# Whose blocks end without an activation, so that a stage is its own preactivation.
LINEAR = {name: name == "mobilenetv2" for name in OWN}


def class_of(name: str) -> type:
    thing = MODELS.find(name)
    return thing if isinstance(thing, type) else typing.get_type_hints(thing)["return"]


def depth(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


# One of each class, the least deep: for what depends on its code alone and is slow in deep networks.
ONE_OF_EACH = [
    min((name for name in OWN if class_of(name) is cls), key=depth)
    for cls in dict.fromkeys(class_of(name) for name in OWN)
]


def build(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    network = build_model(name, num_classes=CLASSES, channels=CHANNELS, size=SIZE.get(name, 16))
    network.registered_name, network.size = name, SIZE.get(name, 16)
    return network


def images(network: nn.Module, count: int, seed: int = 1) -> torch.Tensor:
    shape = (count, CHANNELS, network.size, network.size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tensors(output: ModelOutput) -> list[torch.Tensor]:
    found = [output.embedding, *output.stages, *output.preactivations]
    return found if output.logits is None else [output.logits, *found]


def bits_equal(one: ModelOutput, other: ModelOutput) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


@pytest.fixture(scope="module", params=OWN)
def network(request: pytest.FixtureRequest) -> nn.Module:
    """In evaluation mode; not to be changed."""
    return build(request.param).eval()


@pytest.fixture(scope="module")
def output(network: nn.Module) -> ModelOutput:
    """Of two images, without gradients."""
    with torch.no_grad():
        return network(images(network, 2))


@pytest.fixture(scope="module")
def step(network: nn.Module) -> tuple[nn.Module, ModelOutput]:
    """A copy in training mode that has run on two images with gradients, and what it gave."""
    running = copy.deepcopy(network).train()
    return running, running(images(network, 2))


def test_shapes_are_those_of_a_model_output(network, output):
    assert type(output) is ModelOutput
    assert (output.logits is None) == (not hasattr(network, "classifier"))
    assert output.logits is None or output.logits.shape == (2, CLASSES)
    assert output.embedding.ndim == 2
    assert all(stage.ndim == 4 and stage.shape[2] == stage.shape[3] for stage in output.stages)
    widths = [stage.shape[2] for stage in output.stages]
    assert all(fine > coarse for fine, coarse in itertools.pairwise(widths))
    assert shapes_of(output) == output_shapes(network, CHANNELS, network.size)
    assert all(len(tensor) == 2 and tensor.is_contiguous() for tensor in tensors(output))


def test_embedding_feeds_the_classifier(network, output):
    if not hasattr(network, "classifier"):
        pytest.skip("classifies nothing")
    assert isinstance(network.classifier, nn.Linear)
    with torch.no_grad():
        assert torch.equal(network.classifier(output.embedding), output.logits)


def test_stages_are_the_rectified_preactivations(network, output, step):
    for given in (output, step[1]):
        assert len(given.stages) == len(given.preactivations) >= 2
        for stage, preactivation in zip(given.stages, given.preactivations, strict=True):
            assert (preactivation < 0).any()
            if LINEAR[network.registered_name]:
                assert stage is preactivation
            else:
                assert torch.equal(stage, preactivation.relu())


def test_linear_stages_are_declared_by_the_class_alone(network):
    assert getattr(type(network), "linear_stages", False) is LINEAR[network.registered_name]
    assert "linear_stages" not in vars(network)


def test_nothing_that_is_returned_is_written_into(output, step):
    for given in (output, step[1]):
        assert [tensor._version for tensor in tensors(given)] == [0] * len(tensors(given))


def test_forward_and_backward_are_finite_from_everything_returned(step):
    check_gradients(*step)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_they_are_so_in_evaluation_mode_too(name):
    network = build(name).eval()
    check_gradients(network, network(images(network, 2)))


def check_gradients(network: nn.Module, output: ModelOutput) -> None:
    answers = tensors(output) + ([network.reconstruct(output.embedding)] if output.logits is None else [])
    sum(answer.square().mean() for answer in answers).backward()
    assert all(answer.isfinite().all() for answer in answers)
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert [name for name, gradient in gradients.items() if not gradient.isfinite().all()] == []


def test_batch_of_one_is_taken_in_evaluation_mode(network):
    with torch.no_grad():
        output = network(images(network, 1))
    assert all(len(tensor) == 1 and tensor.isfinite().all() for tensor in tensors(output))


def test_forward_runs_in_bfloat16_under_autocast(network):
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(images(network, 1))
    assert output.stages[-1].dtype == torch.bfloat16
    assert all(tensor.isfinite().all() for tensor in tensors(output))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_initial_weights_depend_on_the_seed_of_the_global_generator_alone(name):
    first, same, other = (dict(build(name, seed).named_parameters()) for seed in (0, 0, 1))
    assert first.keys() == same.keys() == other.keys()
    assert all(torch.equal(first[n], same[n]) for n in first)
    assert all(not torch.equal(first[n], other[n]) for n in first if first[n].ndim > 1)


def test_state_dict_round_trip_gives_the_same_bits(network, output):
    emptied = copy.deepcopy(network)
    with torch.no_grad():
        for tensor in (*emptied.parameters(), *emptied.buffers()):
            tensor.zero_()
        emptied.load_state_dict(network.state_dict())
        assert bits_equal(output, emptied(images(network, 2)))


def test_a_copy_with_hooks_on_every_module_gives_the_same_bits_whatever_it_saw_before(network, output):
    hooked = copy.deepcopy(network)
    called: set[str] = set()
    for name, module in hooked.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.add(name))
    with torch.no_grad():
        hooked(images(network, 2, seed=2))
        assert bits_equal(output, hooked(images(network, 2)))
        next(hooked.parameters()).zero_()
        assert not bits_equal(output, hooked(images(network, 2)))
    # Lists are no layers, and a decoder is for `reconstruct`.
    layers = {name for name, module in hooked.named_modules() if type(module) is not nn.ModuleList}
    assert {name for name in layers if not name.startswith("decoder")} == called
    kept = [value for module in hooked.modules() for value in vars(module).values()]
    assert not any(isinstance(value, (torch.Tensor, ModelOutput)) for value in kept)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_everything_stays_on_the_device_of_the_images(name):
    with FakeTensorMode(), torch.device("cuda"):
        network = build(name)
        output = network(torch.randn(2, CHANNELS, network.size, network.size))
        restored = [network.reconstruct(output.embedding)] if output.logits is None else []
    assert {tensor.device.type for tensor in tensors(output) + restored} == {"cuda"}
    assert shapes_of(output) == output_shapes(build(name), CHANNELS, network.size)


def test_channels_last_changes_no_shape_and_no_value_beyond_rounding(network, output):
    with torch.no_grad():
        changed = copy.deepcopy(network).to(memory_format=torch.channels_last)(
            images(network, 2).contiguous(memory_format=torch.channels_last)
        )
    for expected, got in zip(tensors(output), tensors(changed), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_counting_leaves_the_network_as_it_was(name):
    network = build(name)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert flops(network, CHANNELS, network.size) > count_parameters(network)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


class Returns(nn.Module):
    """What a network gave, so that distillers do not wait for it again and again."""

    def __init__(self, output: ModelOutput) -> None:
        super().__init__()
        self.output = output

    def forward(self, images: torch.Tensor) -> ModelOutput:
        return self.output


@pytest.fixture(scope="module")
def partner() -> Returns:
    thin = build("resnet8")
    return Returns(thin(images(thin, 2)))


def test_every_method_of_table_8_takes_it_as_student_and_as_teacher(network, output, partner):
    if output.logits is None:
        pytest.skip("classifies nothing")
    labels = torch.zeros(2, dtype=torch.int64)
    # ReffAKD is kd on other soft labels.
    for method in sorted({method.partition("+")[0] for method in TABLE8} - {"reffakd"}):
        for student, teacher in ((Returns(output), partner), (partner, Returns(output))):
            distiller = kdzoo.build_distiller(method, student, teacher, images(network, 2))
            loss = distiller.loss(student.output, labels, teacher=teacher.output, epoch=0, epochs=1)
            assert loss.isfinite(), method


def test_no_channel_is_refused(network):
    with pytest.raises(ValueError, match="channels must be at least 1, got 0") as error:
        build_model(network.registered_name, num_classes=CLASSES, channels=0, size=network.size)
    assert str(error.value) == f"model {network.registered_name}: channels must be at least 1, got 0."


def test_no_class_is_refused(network):
    if not hasattr(network, "classifier"):
        pytest.skip("classifies nothing")
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0") as error:
        build_model(network.registered_name, num_classes=0, channels=CHANNELS, size=network.size)
    assert "\n" not in str(error.value)
