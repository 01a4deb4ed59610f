"""The pairs of the public tables on CIFAR-100 train under every method of Table 8."""

import functools

import pytest
import torch
from torch import Tensor, nn

import kdzoo
from kdzoo.checks import UsageError
from kdzoo.outputs import ModelOutput

METHODS = ("at", "dkd", "dkd+reffakd", "fitnet", "kd", "kdsvd", "pkt", "reffakd", "rkd")
# Teacher and student.
PAIRS = (
    ("resnet32x4", "resnet8x4"), ("resnet56", "resnet20"), ("resnet110", "resnet20"),
    ("resnet110", "resnet32"), ("wrn_40_2", "wrn_16_2"), ("wrn_40_2", "wrn_40_1"), ("vgg13", "vgg8"),
    ("vgg13", "mobilenetv2"), ("resnet50", "mobilenetv2"), ("resnet50", "vgg8"),
    ("resnet32x4", "shufflenetv1"), ("resnet32x4", "shufflenetv2"), ("wrn_40_2", "shufflenetv1"),
)  # fmt: skip
CLASSES = 5
LABELS = torch.tensor([3, 1])
# ReffAKD's are probabilities by class; which ones does not matter here.
SOFT = kdzoo.probabilities(torch.full((2, CLASSES), 1 / CLASSES))


class Returns(nn.Module):
    """What a network gave, so that distillers do not wait for it again and again."""

    def __init__(self, output: ModelOutput) -> None:
        super().__init__()
        self.output = output

    def forward(self, images: Tensor) -> ModelOutput:
        return self.output


def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return kdzoo.build_model(name, num_classes=CLASSES, channels=3, size=32)


@functools.cache
def teacher_of(name: str) -> Returns:
    with torch.no_grad():
        return Returns(build(name).eval()(images()))


@pytest.mark.parametrize(("teacher", "student"), PAIRS)
def test_a_public_pair_trains_by_every_method_of_table_8(teacher, student):
    network, guide, losses = build(student), teacher_of(teacher), []
    output = network(images())
    for name in METHODS:
        reffakd = name.endswith("reffakd")
        distiller = name.partition("+")[0] if name != "reffakd" else "kd"
        method = kdzoo.build_distiller(distiller, Returns(output), guide, images())
        losses.append(
            method.loss(
                output, LABELS, teacher=guide.output, soft_labels=SOFT if reffakd else None, epoch=0, epochs=1
            )
        )
    assert all(loss.isfinite() and loss > 0 for loss in losses)
    torch.stack(losses).sum().backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(("teacher", "student"), PAIRS)
def test_kdsvd_takes_channels_or_refuses_the_pair_in_a_sentence(teacher, student):
    networks = teacher_of(student), teacher_of(teacher)
    pairs = kdzoo.build_distiller("at", *networks, images()).pairs
    if all(pair.student_shape[0] == pair.teacher_shape[0] for pair in pairs):
        kdzoo.build_distiller("kdsvd", *networks, images(), layout="channel")
        return
    with pytest.raises(UsageError, match=r"^kdsvd: layout=channel needs equal channels .*\.$") as error:
        kdzoo.build_distiller("kdsvd", *networks, images(), layout="channel")
    assert "\n" not in str(error.value)
