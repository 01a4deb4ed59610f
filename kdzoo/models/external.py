"""What networks from elsewhere share: a wrapper that returns a `ModelOutput`, by hooks.

Hooks are put on when a forward pass begins and taken off when it ends, so nothing that they saw outlives it,
copies of a network carry none, and the bare network stays as its library made it. torch.compile follows them
without a graph break.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from kdzoo.checks import UsageError
from kdzoo.outputs import ModelOutput


class Tap(NamedTuple):
    """A module whose output is a stage.

    Attributes:
        name: in the bare network.
        nhwc: whether the channels are last.
        copied: whether the network writes into it later (an in-place ReLU behind it), so that a copy is kept.
    """

    name: str
    nhwc: bool
    copied: bool


class External(nn.Module):
    """A network from elsewhere, with hooks for what it does not return.

    Args:
        network: maps images to logits.

    Attributes:
        network: the bare network; its `state_dict()` has the names of its library.
        heads: names of the modules whose inputs, side by side, are the embedding.
        embedding: name of the module whose output is the embedding instead.
        linear: whether the only head is a linear layer that makes the logits of the embedding.
        taps: modules whose outputs are the stages, fine to coarse; None where there are none.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        # Names, not modules: a second reference would double the tensors in `state_dict()`.
        self.heads: tuple[str, ...] = ()
        self.embedding: str | None = None
        self.linear = False
        self.taps: tuple[Tap, ...] | None = None

    @property
    def classifier(self) -> nn.Linear:
        """The linear layer that makes the logits of the embedding, where there is such a one."""
        if not self.linear:
            raise AttributeError("its logits are no linear function of its embedding")
        return cast(nn.Linear, self.network.get_submodule(self.heads[0]))

    def forward(self, images: Tensor) -> ModelOutput:
        """Classify [N, C, H, W] images; preactivations are unknown, and stages where none were found."""
        heads: dict[str, Tensor] = {}
        outputs: dict[str, Tensor] = {}
        copied = {tap.name for tap in self.taps or () if tap.copied}
        wanted = [tap.name for tap in self.taps or ()] + ([self.embedding] if self.embedding else [])
        handles = [
            self.network.get_submodule(n).register_forward_hook(_keep_input(heads, n), with_kwargs=True)
            for n in self.heads
        ]
        handles += [
            self.network.get_submodule(n).register_forward_hook(_keep_output(outputs, n, n in copied))
            for n in dict.fromkeys(wanted)
        ]
        try:
            output = self.run(images)
        finally:
            for handle in handles:
                handle.remove()
        plain = images.is_contiguous()
        embedding, stages = output.embedding, output.stages
        if embedding is None and self.embedding:
            embedding = as_vectors([outputs[self.embedding]])
        elif embedding is None and self.heads:
            embedding = as_vectors([heads[n] for n in self.heads])
        if stages is None and self.taps is not None:
            stages = tuple(_nchw(outputs[tap.name], tap.nhwc) for tap in self.taps)
        if stages is not None and plain:
            stages = tuple(stage.contiguous() for stage in stages)
        return output._replace(embedding=embedding, stages=stages)

    def run(self, images: Tensor) -> ModelOutput:
        """Run the bare network; what it does not return itself is None.

        Args:
            images: [N, C, H, W].
        """
        returned = self.network(images)
        return returned if isinstance(returned, ModelOutput) else ModelOutput(logits_in(returned))


def bare_network(network: nn.Module) -> nn.Module:
    """Give a network as its library made it: its parameters have the library's names.

    Args:
        network: as `build_model` makes it; the zoo's own are given back themselves.
    """
    return network.network if isinstance(network, External) else network


def _keep_input(kept: dict[str, Tensor], name: str) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        kept[name] = tensor_in((args, kwargs))

    return hook


def _keep_output(kept: dict[str, Tensor], name: str, copied: bool) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        kept[name] = tensor_in(output).clone() if copied else tensor_in(output)

    return hook


def tensor_in(thing: Any) -> Any:
    """Give the first tensor in arguments or in what a module returned; None if there is none.

    Args:
        thing: a tensor, or tuples, lists and mappings of them.
    """
    if isinstance(thing, Tensor):
        return thing
    if isinstance(thing, Mapping):
        thing = tuple(thing.values())
    if not isinstance(thing, (tuple, list)):
        return None
    return next((found for part in thing if (found := tensor_in(part)) is not None), None)


def as_vectors(parts: Sequence[Tensor]) -> Tensor:
    """Make an embedding of what classifiers are given: maps are averaged, parts stand side by side.

    Args:
        parts: [N, D] each, or [N, C, H, W] where the classifier is a convolution; all else is flattened.

    Returns:
        [N, D].
    """
    rows = [p.mean(dim=(2, 3)) if p.ndim == 4 else p.flatten(1) for p in parts]
    return (rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)).contiguous()


def logits_in(returned: Any) -> Tensor:
    """Take the logits from what a network returned: a tensor, a tuple, or what has "logits".

    Args:
        returned: by the bare network.

    Raises:
        TypeError: there are none.
    """
    if isinstance(returned, Mapping):
        returned = returned.get("logits")
    elif not isinstance(returned, (Tensor, tuple, list)):
        returned = getattr(returned, "logits", returned)
    found = returned[0] if isinstance(returned, (tuple, list)) and returned else returned
    if not isinstance(found, Tensor):
        raise TypeError(
            f"a network must return logits, a tuple that begins with them, or what has 'logits', got "
            f"{type(found).__name__}"
        )
    return found


def _nchw(stage: Tensor, nhwc: bool) -> Tensor:
    return stage.permute(0, 3, 1, 2) if nhwc else stage


def told(who: str, what: str, error: BaseException) -> UsageError:
    """Tell an exception of code from elsewhere in one line.

    Args:
        who: the model, for the message.
        what: what it could not do: "it cannot be built for 32x32 images".
        error: what was raised.
    """
    lines = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {lines[0][:300].rstrip('.')}" if lines else type(error).__name__
    return UsageError(f"{who}: {what}: {reason}.")


def where_possible(make: Callable[[bool], External]) -> External:
    """Make a network on torch's default device, or on the CPU where the meta device of planning does not do.

    Args:
        make: builds it and runs it once; is told whether the network is for real, or for planning alone,
            which needs no weights. Some networks read numbers meanwhile, and the meta device has none.
    """
    if torch.empty(0).device.type != "meta":
        return make(True)
    try:
        return make(False)
    except Exception:
        # Planning draws nothing that is seen.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            return make(False)


def blank(network: nn.Module, channels: int, size: int) -> Tensor:
    """Make one black image on a network's device.

    Args:
        network: any.
        channels: of the image.
        size: height and width in pixels.
    """
    parameter = next(network.parameters(), None)
    return torch.zeros(1, channels, size, size, device=None if parameter is None else parameter.device)


def check_logits(who: str, logits: Tensor, num_classes: int, do: str = "") -> None:
    """Refuse a network that is no classifier of these classes.

    Args:
        who: the model, for the message.
        logits: of one image.
        num_classes: classes K.
        do: how to mend it.

    Raises:
        UsageError: they are not [1, K].
    """
    if logits.shape != (1, num_classes):
        raise UsageError(
            f"{who}: its logits must be [N, {num_classes}], got {tuple(logits.shape)} for one image.{do}"
        )
