"""What networks from elsewhere share: a wrapper that returns a `ModelOutput`, by hooks.

Hooks note tensors only while the wrapper runs, so nothing outlives a forward pass, and the bare network can
be used alone. They are objects on the modules, so a copy of a network has its own, and torch.compile follows
them without a graph break. A wrapper runs one pass at a time.
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


class _Notes:
    """What the hooks of one network see while it runs: tensors by "in" or "out" and the module's name."""

    def __init__(self) -> None:
        self.seen: dict[str, Tensor] | None = None


class _Hook:
    """Notes the first tensor that a module is given, or gives, while its network runs."""

    def __init__(self, notes: _Notes, what: str, name: str, copied: bool = False) -> None:
        self._notes, self._what, self._name, self._copied = notes, what, name, copied

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self._notes.seen is None:
            return
        tensor = tensor_in((args, kwargs) if self._what == "in" else output)
        self._notes.seen[f"{self._what} {self._name}"] = tensor.clone() if self._copied else tensor


class External(nn.Module):
    """A network from elsewhere, with hooks for what it does not return.

    Args:
        network: maps images to logits.

    Attributes:
        network: the bare network; its `state_dict()` has the names of its library.
        heads: names of the modules whose inputs, side by side, are the embedding.
        embedding: name of the module whose output is the embedding instead.
        arguments: with which its library makes it alike.
        linear: whether the only head is a linear layer that makes the logits of the embedding.
        taps: modules whose outputs are the stages, fine to coarse; None where `run` gives them, if anybody.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        # Names, not modules: a second reference would double the tensors in `state_dict()`.
        self.arguments: dict[str, Any] = {}
        self.heads: tuple[str, ...] = ()
        self.embedding: str | None = None
        self.linear = False
        self.taps: tuple[Tap, ...] | None = None
        self._notes = _Notes()

    def hook_up(
        self,
        heads: Sequence[str] = (),
        *,
        linear: bool = False,
        embedding: str | None = None,
        taps: Sequence[Tap] | None = None,
    ) -> None:
        """Put the hooks on the bare network, once.

        Args:
            heads: as the attribute.
            linear: the same.
            embedding: the same.
            taps: the same.
        """
        self.heads, self.linear, self.embedding = tuple(heads), linear, embedding
        self.taps = None if taps is None else tuple(taps)
        hooks = [_Hook(self._notes, "in", name) for name in self.heads]
        copied = {tap.name: tap.copied for tap in self.taps or ()}
        outputs = dict.fromkeys([*copied, *([embedding] if embedding else [])])
        hooks += [_Hook(self._notes, "out", name, copied.get(name, False)) for name in outputs]
        for name, hook in zip([*self.heads, *outputs], hooks, strict=True):
            self.network.get_submodule(name).register_forward_hook(hook, with_kwargs=True)

    @property
    def classifier(self) -> nn.Linear:
        """The linear layer that makes the logits of the embedding, where there is such a one."""
        if not self.linear:
            raise AttributeError("its logits are no linear function of its embedding")
        return cast(nn.Linear, self.network.get_submodule(self.heads[0]))

    def forward(self, images: Tensor) -> ModelOutput:
        """Classify [N, C, H, W] images; preactivations are unknown, and stages where none were found."""
        seen = self._notes.seen = {}
        try:
            output = self.run(images)
        finally:
            self._notes.seen = None
        embedding, stages = output.embedding, output.stages
        if self.embedding:
            embedding = as_vectors([seen[f"out {self.embedding}"]])
        elif self.heads:
            embedding = as_vectors([seen[f"in {name}"] for name in self.heads])
        if self.taps is not None:
            maps = [(seen[f"out {tap.name}"], tap.nhwc) for tap in self.taps]
            stages = tuple(stage.permute(0, 3, 1, 2) if nhwc else stage for stage, nhwc in maps)
        if stages and images.is_contiguous():
            stages = tuple(stage.contiguous() for stage in stages)
        return ModelOutput(output.logits, embedding, stages or None, output.preactivations)  # type: ignore[arg-type]

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
    for part in thing:
        found = tensor_in(part)
        if found is not None:
            return found
    return None


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


def told(who: str, what: str, error: BaseException, do: str = "") -> UsageError:
    """Tell an exception of code from elsewhere in one line.

    Args:
        who: the model, for the message.
        what: what it could not do: "it cannot be built for 32x32 images".
        error: what was raised.
        do: what to do.
    """
    lines = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {lines[0][:300].rstrip('.')}" if lines else type(error).__name__
    return UsageError(f"{who}: {what}: {reason}.{do and f' {do}'}")


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
    except Exception as error:
        if isinstance(error, UsageError) and error.__cause__ is None:
            # What we refuse ourselves, the CPU does not mend.
            raise
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
            f"{who}: its logits must be [N, {num_classes}], got {tuple(logits.shape)} for one image."
            f"{do and f' {do}'}"
        )
