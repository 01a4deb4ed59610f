"""LeNet-5 with batch normalisation: the student of the ReffAKD paper on Fashion-MNIST.

Sources: LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition",
Proceedings of the IEEE 86(11), https://doi.org/10.1109/5.726791; Doshi and Kim 2024,
https://arxiv.org/abs/2404.09886.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from kdzoo.checks import usage
from kdzoo.models.base import check_input
from kdzoo.outputs import ModelOutput
from kdzoo.registry import MODELS


@MODELS.register("lenet5")
class LeNet5(nn.Module):
    """Build LeNet-5 as the ReffAKD notebooks do: two conv stages, then linear layers of 120, 84 and K.

    LeCun et al.: weighted sub-sampling, tanh, no batch norm; ReffAKD's text: two linear layers; its
    notebooks: three; here: as the notebooks. Initial weights are torch's own (`kaiming_uniform_` with
    a = sqrt(5)), which the notebooks leave as they are.

    Args:
        num_classes: classes K of its classifier.
        channels: channels of its input images.
        size: height and width of its input images in pixels; 32 alone.

    Raises:
        UsageError: another size, or a count below 1.
    """

    def __init__(self, num_classes: int, channels: int, size: int) -> None:
        super().__init__()
        check_input("model lenet5", num_classes=num_classes, channels=channels)
        if size != 32:
            advice = "Resize them by --cfg-options views.resize=32, or take --student resnet8 or another."
            raise usage("model lenet5", "size", "32", size, advice)
        self.conv1 = nn.Sequential(nn.Conv2d(channels, 6, 5), nn.BatchNorm2d(6))
        self.conv2 = nn.Sequential(nn.Conv2d(6, 16, 5), nn.BatchNorm2d(16))
        self.hidden = nn.Sequential(
            nn.Flatten(), nn.Linear(16 * 5 * 5, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()
        )
        self.classifier = nn.Linear(84, num_classes)

    def forward(self, images: Tensor) -> ModelOutput:
        """Classify [N, C, 32, 32]; stages are [N, 6, 28, 28] and [N, 16, 10, 10], the embedding [N, 84]."""
        fine = self.conv1(images)
        fine_stage = functional.relu(fine)
        coarse = self.conv2(functional.max_pool2d(fine_stage, 2))
        coarse_stage = functional.relu(coarse)
        embedding = self.hidden(functional.max_pool2d(coarse_stage, 2))
        return ModelOutput(self.classifier(embedding), embedding, (fine_stage, coarse_stage), (fine, coarse))
