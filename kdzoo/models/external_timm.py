"""Networks of timm, through its own interface.

Source: Wightman, PyTorch Image Models, https://github.com/huggingface/pytorch-image-models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from kdzoo.checks import KdzooError, UsageError, unknown
from kdzoo.models.base import Family, check_input, evaluating
from kdzoo.models.external import External, blank, check_logits, logits_in, told, where_possible
from kdzoo.outputs import ModelOutput
from kdzoo.registry import MODELS

# ResNets have four, and so have the networks of the zoo.
MOST_STAGES = 4


def _timm() -> Any:
    """Import timm, which takes a second, where it is used."""
    import timm

    return timm


@MODELS.register("timm")
class Timm(Family):
    """Any network of timm, such as timm:resnet50 or timm:vit_tiny_patch16_224."""

    example = "timm:resnet18"
    where = 'timm.list_models(), or timm.list_models("*resnet*")'

    def __init__(self, member: str) -> None:
        self.member = member
        self.who = f"model timm:{member}"
        network, dot, _ = member.partition(".")
        if network not in self.members():
            raise unknown("model timm", "network", network, self.members())
        published = list(_timm().models.get_arch_pretrained_cfgs(network))
        if dot and member not in published:
            raise unknown(f"model timm:{network}", "set of published weights", member, published or ["none"])

    @classmethod
    def members(cls) -> Sequence[str]:
        """List timm's networks."""
        return list(_timm().list_models())

    def build(self, num_classes: int, channels: int, size: int, *, pretrained: bool = False) -> nn.Module:
        """Build the network as `timm.create_model` does.

        Args:
            num_classes: classes K of its classifier.
            channels: channels of its input images.
            size: height and width of its input images in pixels.
            pretrained: whether to start from published weights (timm's default ones, or those of a name such
                as timm:resnet50.a1_in1k), which are downloaded when training starts; timm fits them to other
                channels and sizes, and leaves the classifier out where the classes differ.
        """
        check_input(self.who, num_classes=num_classes, channels=channels, size=size)
        if pretrained:
            self._published()

        def make(real: bool) -> External:
            network, arguments = self._create(num_classes, channels, size, pretrained and real)
            made = TimmNetwork(self.who, network, num_classes, channels, size)
            made.arguments = arguments
            return made

        return where_possible(make)

    def origin(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Name the published weights and where they are from, if they are asked for."""
        return {"weights": self._published()} if options["pretrained"] else {}

    def published_classes(self) -> int | None:
        """Count the classes of the published weights, as timm tells them."""
        config = _timm().models.get_pretrained_cfg(self.member)
        return int(config.num_classes) if config else None

    def _published(self) -> dict[str, str]:
        config = _timm().models.get_pretrained_cfg(self.member)
        place = config and (config.hf_hub_id or config.url)
        if not place:
            raise UsageError(f"{self.who}: timm has no published weights for it. Leave pretrained out.")
        network = self.member.partition(".")[0]
        return {"name": f"{network}.{config.tag}" if config.tag else network, "from": str(place)}

    def _create(
        self, num_classes: int, channels: int, size: int, pretrained: bool
    ) -> tuple[nn.Module, dict[str, Any]]:
        arguments: dict[str, Any] = {"num_classes": num_classes, "in_chans": channels, "img_size": size}
        make: Any = partial(_timm().create_model, self.member, pretrained=pretrained)
        try:
            try:
                network: nn.Module = make(**arguments)
            except TypeError as error:
                # Most convolutional networks take images of any size, and do not ask.
                if "img_size" not in str(error):
                    raise
                del arguments["img_size"]
                network = make(**arguments)
        except Exception as error:
            if not pretrained:
                what = f"it cannot be built for {size}x{size} images of {channels} channels"
                raise told(self.who, what, error) from error
            published = self._published()
            what = f"its published weights {published['name']} cannot be loaded from {published['from']}"
            raise KdzooError(str(told(self.who, what, error))) from error
        if not hasattr(network, "get_classifier"):
            raise UsageError(f"{self.who}: it is no classifier. Choose another network.")
        return network, arguments


class TimmNetwork(External):
    """A network of timm that gives all that timm tells of it.

    Args:
        who: the model, for messages.
        network: as timm makes it.
        num_classes: classes K of its classifier.
        channels: channels of its input images.
        size: height and width of its input images in pixels.

    Attributes:
        indices: which of the maps that timm offers are stages; None where it offers none.
    """

    def __init__(self, who: str, network: Any, num_classes: int, channels: int, size: int) -> None:
        super().__init__(network)
        self.indices: list[int] | None = None
        parts = _parts(network.get_classifier())
        heads = {name: module for name, module in network.named_modules() if any(module is p for p in parts)}
        ends: dict[str, tuple[Tensor, Any]] = {}
        watches = [module.register_forward_hook(_keep_ends(ends, name)) for name, module in heads.items()]
        try:
            with evaluating(network):
                logits = self._first_pass(blank(network, channels, size))
        except Exception as error:
            what = f"it cannot take {size}x{size} images of {channels} channels"
            _, height, width = network.pretrained_cfg["input_size"]
            raise told(who, what, error, f"It is made for {height}x{width}.") from error
        finally:
            for watch in watches:
                watch.remove()
        check_logits(who, logits, num_classes)
        # The very tensor: what is scaled or averaged afterwards is no linear function any more.
        linear = [
            isinstance(heads[name], nn.Linear) and given.ndim == 2 and made is logits
            for name, (given, made) in ends.items()
        ]
        self.hook_up(tuple(ends), linear=linear == [True])

    def _first_pass(self, image: Tensor) -> Tensor:
        network: Any = self.network
        if not hasattr(network, "forward_intermediates"):
            return logits_in(network(image))
        features, maps = network.forward_intermediates(image, output_fmt="NCHW")
        self.indices = stage_indices(maps, [part["reduction"] for part in network.feature_info])
        return logits_in(network.forward_head(features))

    def run(self, images: Tensor) -> ModelOutput:
        """Run the network once, and keep the maps of its stages.

        timm writes into none of them later: each equals what a pass that ends there gives.

        Args:
            images: [N, C, H, W].
        """
        if self.indices is None:
            return super().run(images)
        network: Any = self.network
        features, maps = network.forward_intermediates(images, indices=self.indices, output_fmt="NCHW")
        return ModelOutput(network.forward_head(features), stages=tuple(maps))


def _keep_ends(kept: dict[str, tuple[Tensor, Any]], name: str) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        kept[name] = args[0], output

    return hook


def _parts(head: Any) -> list[nn.Module]:
    """List the parts of a classifier: distilled transformers have two, and some have one for each branch."""
    if isinstance(head, (tuple, list, nn.ModuleList)):
        return [module for part in head for module in _parts(part)]
    return [head]


def stage_indices(maps: Sequence[Tensor], reductions: Sequence[int]) -> list[int] | None:
    """Choose stages among the maps that timm offers: the last of each resolution, at most the four coarsest.

    Args:
        maps: [1, C, H, W] each, all that there are.
        reductions: by how much each is smaller than the image, as timm tells.

    Returns:
        Positions, fine to coarse. Where all maps have one size, as in a plain transformer, four that are
        evenly spaced, the last among them. None for fewer than two.
    """
    sizes = [tuple(m.shape[2:]) for m in maps]
    if len(set(sizes)) == 1:
        steps = min(MOST_STAGES, len(maps))
        chosen = [len(maps) * (i + 1) // steps - 1 for i in range(steps)]
    else:
        # By what timm tells first: a small image has one pixel in several stages, and the stem is no stage.
        known: Sequence[Any] = reductions if len(reductions) == len(maps) else sizes
        last = sorted({known[i]: i for i in range(len(maps))}.values())[-MOST_STAGES:]
        chosen = sorted({sizes[i]: i for i in last}.values())
    return chosen if len(chosen) > 1 else None
