"""Batch norm for trained parts that may be given a single number a channel."""

from __future__ import annotations

from torch import Tensor, nn


class BatchNorm(nn.BatchNorm2d):
    """Normalise maps as torch's own does, and a single number a channel by the running statistics.

    A last batch of one sample whose map has one pixel has no deviation of its own; torch raises there.

    Args:
        num_features: channels.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)

    def forward(self, input: Tensor) -> Tensor:
        """Give maps of mean 0 and deviation 1, scaled and shifted as learnt: [N, C, H, W]."""
        if self.training and input.numel() == input.shape[1]:
            return nn.functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)
