"""Pairs of unlike real networks that a distiller may meet."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdzoo.models import build_model
from kdzoo.models.base import outputs_of
from kdzoo.outputs import Batch, ModelOutput, norms_of
from kdzoo.testing.inputs import Case


class NetworkPair(NamedTuple):
    """Two real networks that a distiller may meet.

    Attributes:
        name: student and teacher.
        student: returns a `ModelOutput`.
        teacher: the same.
        images: [N, C, H, W] that both take.
    """

    name: str
    student: nn.Module
    teacher: nn.Module
    images: Tensor


class NoStages(nn.Module):
    """A network without maps: logits and an embedding.

    Args:
        num_classes: classes K.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Linear(3 * 32 * 32, 24)
        self.classifier = nn.Linear(24, num_classes)

    def forward(self, images: Tensor) -> ModelOutput:
        """Give logits and embedding of [N, 3, 32, 32] images."""
        embedding = self.body(images.flatten(1)).relu()
        return ModelOutput(self.classifier(embedding), embedding)


class LogitsAlone(nn.Module):
    """A network that returns nothing but logits.

    Args:
        num_classes: classes K.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(3 * 32 * 32, num_classes)

    def forward(self, images: Tensor) -> ModelOutput:
        """Give the logits of [N, 3, 32, 32] images."""
        return ModelOutput(self.classifier(images.flatten(1)))


@functools.cache
def network_pairs() -> tuple[NetworkPair, ...]:
    """Build the pairs of unlike networks that a distiller is checked on when nobody names others.

    Returns:
        Pairs of 10 classes and 32 x 32 images of three channels, with untrained weights; built once, so leave
        them as they are.
    """
    classes = 10
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(7)
        built: dict[str, nn.Module] = {
            name: build_model(name, num_classes=classes, channels=3, size=32)
            for name in ("lenet5", "resnet18", "resnet50")
        }
        # Its stages all have one size.
        built["a timm transformer"] = build_model(
            "timm:vit_tiny_patch16_224", num_classes=classes, channels=3, size=32
        )
        built |= {"no stages": NoStages(classes), "logits alone": LogitsAlone(classes)}
        images = torch.randn(3, 3, 32, 32)
    names = [
        ("lenet5", "resnet18"),
        ("resnet18", "resnet50"),
        ("resnet18", "lenet5"),
        ("lenet5", "a timm transformer"),
        ("a timm transformer", "resnet18"),
        ("lenet5", "no stages"),
        ("no stages", "resnet18"),
        ("logits alone", "logits alone"),
    ]
    return tuple(NetworkPair(f"{s} under {t}", built[s], built[t], images) for s, t in names)


@functools.cache
def pair_case(pair: NetworkPair) -> Case:
    """Run both networks of a pair in evaluation mode, once however many rules ask.

    Args:
        pair: networks and images.
    """
    student, teacher = (outputs_of(network, pair.images) for network in (pair.student, pair.teacher))
    samples, classes = student.logits.shape
    batch = Batch(pair.images, torch.arange(samples) % classes, torch.arange(samples))
    head, norms = getattr(pair.teacher, "classifier", None), norms_of(pair.teacher)
    return Case(pair.name, student, teacher, batch, head, classes, norms=norms)
