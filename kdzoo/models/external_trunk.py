"""Where a network's stages and its classifier are, found by watching one forward pass.

Nothing is known of the network but the calls of its modules: their order, their nesting, and the sizes of
the maps that they give. A stage is the last map of each size on the trunk, the chain of modules that the
image goes through; what happens inside a block (a wide 1x1 convolution before a stride, squeeze and
excitation) is none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from kdzoo.checks import UsageError, unknown, usage
from kdzoo.models.base import evaluating
from kdzoo.models.external import External, Tap, blank, check_logits, logits_in, tensor_in, told
from kdzoo.outputs import ModelOutput

AUTO, NONE = "auto", "none"
# ResNets have four, and so have the networks of the zoo.
MOST_STAGES = 4


@dataclass
class Call:
    """One call of a module.

    Attributes:
        name: of the module in the network; "" is the network.
        module: that was called.
        taken: the first tensor that it was given.
        given: the first tensor that it gave.
        version: of `given` when it was given; in-place operations raise it.
        calls: of modules inside it, in order.
    """

    name: str
    module: nn.Module
    taken: Tensor | None = None
    given: Tensor | None = None
    version: int = 0
    calls: list[Call] = field(default_factory=list)

    def inside(self) -> Iterator[Call]:
        """Go through all calls inside this one, in the order in which they ended."""
        for call in self.calls:
            yield from call.inside()
            yield call

    def once(self) -> list[Call]:
        """List the calls inside this one of modules that are called no more than once."""
        counts = Counter(call.name for call in self.inside())
        return [call for call in self.inside() if counts[call.name] == 1]

    @property
    def written(self) -> bool:
        """Whether somebody wrote into what it gave."""
        return self.given is not None and self.given._version != self.version


def trace(network: nn.Module, images: Tensor) -> tuple[Call, Any]:
    """Run a network once and note the calls of its modules.

    Args:
        network: in evaluation mode; dropout that works in place is switched on for the pass, because then it
            is seen to do so.
        images: [N, C, H, W].

    Returns:
        The call of the network itself, and what it returned.
    """
    root = Call("", network, images)
    stack = [root]
    names = {module: name for name, module in network.named_modules()}

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        call = Call(names[module], module, tensor_in((args, kwargs)))
        stack[-1].calls.append(call)
        stack.append(call)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        call = stack.pop()
        call.given = tensor_in(output)
        call.version = 0 if call.given is None else call.given._version

    drops = [m for m in names if isinstance(m, _DropoutNd) and m.inplace and not m.training]
    handles = [m.register_forward_pre_hook(enter, with_kwargs=True) for m in names if m is not network]
    handles += [m.register_forward_hook(leave) for m in names if m is not network]
    try:
        with torch.random.fork_rng(devices=[]):
            for module in drops:
                module.train()
            return root, network(images)
    finally:
        for module in drops:
            module.eval()
        for handle in handles:
            handle.remove()


def find_head(root: Call, num_classes: int) -> Call | None:
    """Find the classifier: the last linear layer, or convolution, with as many outputs as classes.

    Args:
        root: of a traced pass.
        num_classes: classes K.
    """
    found = None
    for call in root.once():
        linear = isinstance(call.module, nn.Linear) and call.module.out_features == num_classes
        if linear or (isinstance(call.module, nn.Conv2d) and call.module.out_channels == num_classes):
            found = call
    return found


def find_stages(root: Call, head: Call | None) -> list[Call] | None:
    """Find the last map of each size on the trunk, pooling and dropout left out; at most the four coarsest.

    A stem, a single convolution that makes the largest maps and these already smaller than the image, is no
    stage, and what follows the classifier or global pooling is none.

    Args:
        root: of a traced pass.
        head: the classifier, where it is known.

    Returns:
        Calls, fine to coarse; None for fewer than two.
    """
    parts: dict[int, list[Call]] = {}
    once = {call.name for call in root.once()}
    for call in _trunk(root, head):
        area, kind = _area(call.given), type(call.module).__name__
        if call is head or (area == 1 and "Pool" in kind and ("Adaptive" in kind or "Global" in kind)):
            break
        if area is not None and call.name in once and not any(w in kind for w in ("Pool", "Drop", "Flatten")):
            parts.setdefault(area, []).append(call)
    whole = _area(root.taken) or 0
    largest = max(parts, default=0)
    layers = [
        c for part in parts.get(largest, ()) for c in (*part.inside(), part)
        if isinstance(c.module, (nn.Conv2d, nn.Linear))
    ]  # fmt: skip
    if 2 * largest < whole and len(layers) == 1:
        del parts[largest]
    coarse = [parts[area][-1] for area in sorted(parts, reverse=True)][-MOST_STAGES:]
    return coarse if len(coarse) > 1 else None


def _trunk(call: Call, head: Call | None) -> Iterator[Call]:
    """Go along the trunk: into what holds the classifier or several changes of size, past everything else."""
    inside = list(call.inside())
    outer, inner = _area(call.taken), _area(call.given)
    sizes = [area for c in inside if (area := _area(c.given)) is not None]
    several = outer is not None and (inner is None or any(inner < area < outer for area in sizes))
    if inside and (several or any(c is head for c in inside)):
        for part in call.calls:
            yield from _trunk(part, head)
    else:
        yield call


def _area(tensor: Tensor | None) -> int | None:
    """Count the pixels of a map; None for what is no map."""
    if tensor is None or tensor.ndim != 4:
        return None
    return tensor.shape[1] * tensor.shape[2] if _is_nhwc(tensor) else tensor.shape[2] * tensor.shape[3]


def _is_nhwc(tensor: Tensor) -> bool:
    """Say whether a map of a square image has its channels last."""
    return tensor.shape[2] != tensor.shape[3] and tensor.shape[1] == tensor.shape[2]


def hooked(
    who: str,
    network: nn.Module,
    num_classes: int,
    channels: int,
    size: int,
    *,
    stages: str = AUTO,
    classifier: str = AUTO,
    embedding: str = AUTO,
    do: str = "",
) -> External:
    """Wrap a network, with hooks where its stages and its embedding are.

    Args:
        who: the model, for messages.
        network: maps [N, channels, size, size] to logits.
        num_classes: classes K that it must have.
        channels: channels of its input images.
        size: height and width of its input images in pixels.
        stages: names of its modules whose outputs are the stages, fine to coarse, with commas between them;
            "auto" finds them where the network does not return them, "none" leaves them out.
        classifier: name of the module whose input is the embedding; "auto" finds it, likewise.
        embedding: name of the module whose output is the embedding.
        do: what mends logits of other classes.

    Raises:
        UsageError: it cannot be run, is no such classifier, or has no such modules.
    """
    external = External(network)
    with evaluating(network):
        try:
            root, returned = trace(network, blank(network, channels, size))
            logits = logits_in(returned)
        except Exception as error:
            raise told(who, f"it cannot take {size}x{size} images of {channels} channels", error) from error
    check_logits(who, logits, num_classes, do)
    own = returned if isinstance(returned, ModelOutput) else ModelOutput(logits)
    head = find_head(root, num_classes) if classifier == AUTO else _named(who, root, "classifier", classifier)
    if embedding != AUTO:
        if classifier != AUTO:
            raise UsageError(f"{who}: classifier and embedding are both given. Give one of them.")
        _named(who, root, "embedding", embedding)
    taps = None if stages == AUTO and own.stages is not None else _taps(who, root, head, stages)
    told_otherwise = own.embedding is not None and classifier == AUTO
    if embedding != AUTO or head is None or (told_otherwise and head.taken is not own.embedding):
        external.hook_up(embedding=None if embedding == AUTO else embedding, taps=taps)
    else:
        vectors = head.taken is not None and head.taken.ndim == 2
        # The very tensor: what is scaled or averaged afterwards is no linear function any more.
        linear = isinstance(head.module, nn.Linear) and vectors and head.given is logits
        external.hook_up([head.name], linear=linear, taps=taps)
    return external


def _taps(who: str, root: Call, head: Call | None, stages: str) -> list[Tap] | None:
    """Choose the stages that an option says; an empty list leaves out even those that a network returns."""
    found = find_stages(root, head) if stages == AUTO else []
    if stages not in (AUTO, NONE):
        names = [name.strip() for name in stages.split(",")]
        found = _fine_to_coarse(who, [_named(who, root, "stages", name) for name in names])
    if found is None:
        return None
    maps = [call.given for call in found if call.given is not None]
    # A map with as many channels as rows looks like both, so the others tell.
    nhwc = any(_is_nhwc(stage) for stage in maps)
    return [
        Tap(call.name, nhwc and stage.shape[1] == stage.shape[2], call.written)
        for call, stage in zip(found, maps, strict=True)
    ]


def _named(who: str, root: Call, option: str, name: str) -> Call:
    """Find the last call of a module by its name."""
    names = [n for n, _ in root.module.named_modules() if n]
    if name not in names:
        raise unknown(who, f"module for {option}", name, names)
    calls = [call for call in root.inside() if call.name == name]
    if not calls or calls[-1].given is None:
        raise UsageError(f"{who}: {option}: module {name!r} gives no tensor in a forward pass. Name another.")
    return calls[-1]


def _fine_to_coarse(who: str, calls: list[Call]) -> list[Call]:
    areas = []
    for call in calls:
        area = _area(call.given)
        if area is None:
            shape = None if call.given is None else tuple(call.given.shape)
            raise usage(who, f"stage {call.name!r}", "a map [N, C, H, W]", shape, "Name another module.")
        areas.append(area)
    if areas != sorted(areas, reverse=True):
        raise UsageError(f"{who}: stages must go from fine to coarse, got {[c.name for c in calls]}.")
    return calls


__all__ = ["AUTO", "NONE", "Call", "find_head", "find_stages", "hooked", "trace"]
