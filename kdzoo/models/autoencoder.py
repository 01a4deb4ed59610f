"""The convolutional autoencoder whose embeddings make ReffAKD's soft labels.

Source: Doshi and Kim 2024, "ReffAKD: resource-efficient autoencoder-based knowledge distillation",
https://arxiv.org/abs/2404.09886. Paper: a bottleneck of 48 numbers for Fashion-MNIST; notebooks: 768, 48 in
each of 4x4 cells; here: as the notebooks. Initial weights are torch's own (`kaiming_uniform_` with
a = sqrt(5)), which the notebooks leave as they are.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from kdzoo.checks import usage
from kdzoo.models.base import check_input
from kdzoo.outputs import ModelOutput
from kdzoo.registry import MODELS


@MODELS.register("autoencoder")
class Autoencoder(nn.Module):
    """Build the paper's autoencoder: 4x4 convolutions of stride 2 with 12, 24, 48 filters, and their mirror.

    It classifies nothing: `logits` is None, and there is no `classifier`.

    Args:
        num_classes: accepted because every model is built alike; unused.
        channels: channels of its images.
        size: height and width of its images in pixels, a multiple of 8.

    Raises:
        UsageError: another size, or no channel.
    """

    def __init__(self, num_classes: int, channels: int, size: int) -> None:
        super().__init__()
        check_input("model autoencoder", channels=channels)
        if size < 8 or size % 8:
            raise usage("model autoencoder", "size", "a multiple of 8", size, "Resize the images.")
        self.encoder = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)
            for inputs, outputs in ((channels, 12), (12, 24), (24, 48))
        )
        self.decoder = nn.Sequential(
            nn.Unflatten(1, (48, size // 8, size // 8)),
            nn.ConvTranspose2d(48, 24, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(24, 12, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(12, channels, 4, stride=2, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, images: Tensor) -> ModelOutput:
        """Embed [N, C, H, W] images; stages at H / 2, H / 4, H / 8, the last flattened is the embedding."""
        x = images
        stages, preactivations = [], []
        for conv in self.encoder:
            preactivations.append(conv(x))
            x = functional.relu(preactivations[-1])
            stages.append(x)
        return ModelOutput(None, x.flatten(1), tuple(stages), tuple(preactivations))  # type: ignore[arg-type]

    def reconstruct(self, embedding: Tensor) -> Tensor:
        """Decode embeddings into images.

        Args:
            embedding: [N, 48 * (size / 8)^2], as `forward` gives it.

        Returns:
            [N, C, H, W], values in (0, 1).
        """
        return cast(Tensor, self.decoder(embedding))
