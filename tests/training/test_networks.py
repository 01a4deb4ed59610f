import pytest
import torch
from torch import nn

from kdzoo.models import build_model
from kdzoo.outputs import Batch, ModelOutput
from kdzoo.training.execution import for_teaching
from kdzoo.training.loop import seeded_network
from kdzoo.training.networks import SharedTeacher, run_network


def tensors(output: ModelOutput) -> list[torch.Tensor]:
    found = []
    for value in output:
        found += [] if value is None else [value] if isinstance(value, torch.Tensor) else list(value)
    return found


def build(name: str = "lenet5") -> nn.Module:
    return seeded_network(lambda: build_model(name, num_classes=10, channels=1, size=32), 3)


def batch(count: int, seed: int = 0) -> Batch:
    images = torch.randn(count, 1, 32, 32, generator=torch.Generator().manual_seed(seed))
    return Batch(images, torch.zeros(count, dtype=torch.int64), None)


class Counting(nn.Module):
    """Counts its passes, and gives nothing but logits."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(1024, 3), nn.BatchNorm1d(3)
        self.sizes: list[int] = []

    def forward(self, images):
        self.sizes.append(len(images))
        return ModelOutput(self.norm(self.linear(images.flatten(1))))


def test_a_shared_teacher_runs_once_a_batch():
    network = Counting()
    teacher = SharedTeacher(network, "float32")
    one, other = batch(4), batch(4, seed=1)
    first = teacher(one)
    assert teacher(one) is first
    # Members get tuples of their own, with or without indices, around the same images.
    assert teacher(one._replace(indices=torch.arange(4))) is first
    assert network.sizes == [4]
    assert not torch.equal(teacher(other).logits, first.logits)
    assert network.sizes == [4, 4]
    assert torch.equal(teacher(one).logits, first.logits)
    assert network.sizes == [4, 4, 4]


def test_a_shared_teacher_does_not_learn():
    network = Counting().train()
    teacher = SharedTeacher(network, "float32")
    before = {k: v.clone() for k, v in network.state_dict().items()}
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    assert not teacher(batch(4)).logits.requires_grad
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_sample_alone_has_the_bits_that_it_has_beside_another(precision):
    network = build()
    pair = batch(2)
    both = SharedTeacher(network, precision)(pair)
    alone = SharedTeacher(network, precision)(Batch(pair.images[:1], pair.labels[:1], None))
    assert tensors(both)
    for one, other in zip(tensors(alone), tensors(both), strict=True):
        assert len(one) == 1
        assert torch.equal(one, other[:1])


def test_a_short_batch_is_filled_up_and_given_as_it_is():
    network = Counting()
    teacher, full = SharedTeacher(network, "float32", fewest=7), batch(7)
    usual = teacher(full)
    short = teacher(Batch(full.images[:3], full.labels[:3], None))
    assert network.sizes == [7, 7]
    assert torch.equal(short.logits, usual.logits[:3])
    assert len(teacher(batch(9)).logits) == network.sizes[-1] == 9


class Preactivated(nn.Module):
    """Has batch norm before its convolution, under the names of those that have it behind."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, inside, 3, stride=4)
        self.bn1, self.conv1 = nn.BatchNorm2d(inside), nn.Conv2d(inside, outside, 3)
        self.bn1.running_mean.add_(0.5)

    def forward(self, images):
        return ModelOutput(self.conv1(self.bn1(self.stem(images)).relu()).mean(dim=(2, 3)))


@pytest.mark.parametrize("outside", [3, 4])
def test_batch_norm_before_a_convolution_is_not_folded_into_it(outside):
    network = Preactivated(3, outside).eval()
    taught = for_teaching(network, "float32", 1, 32)
    images = batch(2).images
    assert torch.allclose(taught(images).logits, network(images).logits, atol=1e-6)
    assert type(taught.bn1) is nn.BatchNorm2d


def test_a_batch_of_one_is_passed_as_two_and_given_as_one():
    network = Counting()
    output = SharedTeacher(network, "float32")(batch(1))
    assert network.sizes == [2]
    assert output.logits.shape == (1, 3)
    assert output[1:] == (None, None, None)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_losses_always_see_float32(precision):
    output = run_network(build().eval(), batch(3).images, precision)
    assert {t.dtype for t in tensors(output)} == {torch.float32}
    assert len(tensors(output)) == len(tensors(build().eval()(batch(3).images)))


def test_bf16_computes_in_bf16_and_float32_does_not():
    network, images = build().eval(), batch(3).images
    exact = network(images).logits
    assert torch.equal(run_network(network, images, "float32").logits, exact)
    short = run_network(network, images, "bf16").logits
    assert torch.equal(short, short.bfloat16().float())
    assert not torch.equal(short, exact)
    torch.testing.assert_close(short, exact, rtol=0.1, atol=0.1)


def test_a_seeded_network_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build()
    assert torch.equal(torch.rand(3), expected)


def test_a_seeded_network_is_a_function_of_its_seed():
    def weights(seed: int) -> torch.Tensor:
        torch.rand(seed + 1)
        return seeded_network(lambda: nn.Linear(4, 4), seed).weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
