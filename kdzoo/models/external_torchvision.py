"""Classification networks of torchvision, by hooks.

Source: TorchVision maintainers and contributors, https://github.com/pytorch/vision.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from kdzoo.checks import KdzooError, UsageError, unknown
from kdzoo.models.base import Family, check_input
from kdzoo.models.external import External, told, where_possible
from kdzoo.models.external_trunk import AUTO, hooked
from kdzoo.registry import MODELS

# Published files of DenseNets are from before names with dots were refused: norm.1 for norm1. Source:
# _load_state_dict in torchvision/models/densenet.py.
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
# Heads beside the classifier, which published files of the Inception networks hold.
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


def _models() -> Any:
    """Import torchvision's networks, which takes seconds, where they are used."""
    import torchvision

    return torchvision.models


@MODELS.register("torchvision")
class TorchVision(Family):
    """Any classification network of torchvision, such as torchvision:resnet18 or torchvision:swin_t."""

    example = "torchvision:resnet18"
    where = "torchvision.models.list_models(module=torchvision.models)"

    def __init__(self, member: str) -> None:
        self.member = member
        self.who = f"model torchvision:{member}"
        if member not in self.members():
            raise unknown("model torchvision", "network", member, self.members())

    @classmethod
    def members(cls) -> Sequence[str]:
        """List torchvision's classification networks."""
        return list(_models().list_models(module=_models()))

    def build(
        self, num_classes: int, channels: int, size: int, *, pretrained: bool = False, stages: str = AUTO
    ) -> nn.Module:
        """Build the network as `torchvision.models.get_model` does, without auxiliary heads.

        For other images than those of three channels its first convolution is made anew, with torch's own
        initial weights.

        Args:
            num_classes: classes K of its classifier.
            channels: channels of its input images.
            size: height and width of its input images in pixels.
            pretrained: whether to start from torchvision's default weights, which are downloaded when
                training starts; the classifier is left out where the classes differ.
            stages: names of its modules whose outputs are the stages, fine to coarse, such as
                "layer1,layer2"; "auto" takes the last map of each size, at most the four coarsest, and "none"
                none.
        """
        check_input(self.who, num_classes=num_classes, channels=channels, size=size)
        if pretrained:
            self._check_pretrained(channels, size)

        def make(real: bool) -> External:
            network = self._create(num_classes, channels, size, self._own(size, pretrained))
            external = hooked(self.who, network, num_classes, channels, size, stages=stages)
            external.arguments = {"num_classes": num_classes, **self._own(size, pretrained)}
            if pretrained and real:
                self._load(network, num_classes, external.heads)
            return external

        return where_possible(make)

    def origin(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Name the published weights and where they are from, if they are asked for."""
        if not options["pretrained"]:
            return {}
        weights = self._weights()
        return {"weights": {"name": str(weights), "from": weights.url}}

    def published_classes(self) -> int | None:
        """Count the classes of torchvision's default weights."""
        return len(self._weights().meta["categories"])

    def _weights(self) -> Any:
        return _models().get_model_weights(self.member).DEFAULT

    def _check_pretrained(self, channels: int, size: int) -> None:
        expected = self._weights().meta["min_size"][0]
        if channels != 3:
            raise UsageError(
                f"{self.who}: its published weights are for images of 3 channels, got {channels}. "
                "Leave pretrained out."
            )
        if self.member.startswith(("vit_", "maxvit")) and size != expected:
            raise UsageError(
                f"{self.who}: its published weights are for images of {expected} pixels, got {size}. "
                "Resize the images, or leave pretrained out."
            )

    def _own(self, size: int, pretrained: bool) -> dict[str, Any]:
        """Give the arguments that only some of the networks take."""
        if self.member in ("googlenet", "inception_v3"):
            return {"aux_logits": False, "init_weights": True, "transform_input": pretrained}
        if self.member.startswith("vit_"):
            return {"image_size": size}
        return {"input_size": (size, size)} if self.member.startswith("maxvit") else {}

    def _create(self, num_classes: int, channels: int, size: int, own: Mapping[str, Any]) -> nn.Module:
        try:
            network: nn.Module = _models().get_model(
                self.member, weights=None, num_classes=num_classes, **own
            )
        except Exception as error:
            raise told(self.who, f"it cannot be built for {size}x{size} images", error) from error
        if channels != 3:
            _take_channels(network, channels)
        return network

    def _load(self, network: nn.Module, num_classes: int, heads: tuple[str, ...]) -> None:
        """Load published weights, tensors alone, but for a classifier of other classes."""
        weights = self._weights()
        what = f"its published weights {weights} cannot be loaded from {weights.url}"
        try:
            found: dict[str, Tensor] = weights.get_state_dict(
                progress=False, check_hash=True, weights_only=True
            )
            found = {_OLD_DENSENET.sub(r"\1\2", name): value for name, value in found.items()}
            left_out: tuple[str, ...] = _AUXILIARY
            if num_classes != len(weights.meta["categories"]):
                left_out += tuple(f"{head}." for head in heads)
            found = {name: value for name, value in found.items() if not name.startswith(left_out)}
            own = {name for name in network.state_dict() if not name.startswith(left_out)}
            if own != set(found):
                raise ValueError(f"tensors {sorted(own ^ set(found))[:3]} are missing or unknown")
            network.load_state_dict(found, strict=False)
        except Exception as error:
            raise KdzooError(str(told(self.who, what, error))) from error


def _take_channels(network: nn.Module, channels: int) -> None:
    """Make the first convolution anew for other channels."""
    name, old = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(
        channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=old.bias is not None  # type: ignore[arg-type]
    )  # fmt: skip
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, new)
