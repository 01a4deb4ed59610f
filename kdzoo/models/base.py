"""What every network of the zoo agrees on: how it is built, that it returns a `ModelOutput`, and under which
names public checkpoints keep its weights; and the layers that several families are made of."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from kdzoo.checks import UsageError, checked, options_of, usage
from kdzoo.outputs import ModelOutput, Shapes, as_output, shapes_of
from kdzoo.provenance import plug_in
from kdzoo.registry import MODELS


class Family(ABC):
    """Networks from elsewhere, each under a name of its own: `timm:resnet18` is the member resnet18 of timm.

    A family is registered as a class and made for one member; `build` then stands where another model's class
    or function does, and its keyword-only arguments are the options.

    Args:
        member: what stands behind the colon.

    Attributes:
        example: a network as users write it.
        where: what lists the members.

    Raises:
        UsageError: there is no such member.
    """

    example: ClassVar[str]
    where: ClassVar[str]

    @abstractmethod
    def __init__(self, member: str) -> None: ...

    @classmethod
    @abstractmethod
    def members(cls) -> Sequence[str]:
        """List what may stand behind the colon; nothing for a family that is open."""

    @abstractmethod
    def build(self, num_classes: int, channels: int, size: int) -> nn.Module:
        """Build the member, as `build_model` does."""

    def origin(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Say which weights of others a network starts from, and what code from outside defines it.

        Args:
            options: all of them, checked.
        """
        return {}

    def published_classes(self) -> int | None:
        """Count the classes that its published weights tell apart; None where it has no such weights."""
        return None


def is_family(thing: Any) -> bool:
    """Say whether what is registered is a family of networks, whose members have names of their own."""
    return isinstance(thing, type) and issubclass(thing, Family)


def published_classes(name: str, options: Mapping[str, object]) -> int | None:
    """Count the classes that the published weights tell apart from which a network starts.

    Args:
        name: as `build_model` takes it.
        options: the same.

    Returns:
        None for a network that starts from none.
    """
    build = find_model(name)
    family = getattr(build, "__self__", None)
    if not isinstance(family, Family) or "pretrained" not in options:
        return None
    known: dict[str, Any] = checked(f"model {name}", options_of(build), options)
    return family.published_classes() if known["pretrained"] else None


def find_model(name: str) -> Callable[..., nn.Module]:
    """Find what builds a network: a registered class or function, or `build` of a family's member.

    Args:
        name: a name of `kdzoo list models`, a family's with its member: "timm:resnet18".

    Raises:
        UsageError: an unknown name, a family without a member, or a member of what is no family.
    """
    family, colon, member = name.partition(":") if isinstance(name, str) else (name, "", "")
    found: Any = MODELS.find(family)
    if not (isinstance(found, type) and issubclass(found, Family)):
        if colon:
            raise UsageError(f"model {name!r}: {family!r} has no members. Write {family!r} alone.")
        return cast(Callable[..., nn.Module], found)
    if not member:
        raise UsageError(
            f"model {name!r}: it is a family of networks. Write which one, for example {found.example!r}."
        )
    return found(member).build


def model_origin(name: str, options: Mapping[str, object]) -> dict[str, Any]:
    """Say what decides a network's initial weights beside its name, its options and the seed.

    Args:
        name: as `build_model` takes it.
        options: the same.

    Returns:
        The hash of a file from outside that defines the network, and which published weights it starts from;
        nothing for a network of kdzoo's own.
    """
    build = find_model(name)
    family = getattr(build, "__self__", None)
    file = plug_in(type(family) if isinstance(family, Family) else build)
    found: dict[str, Any] = {"plug_in": file} if file else {}
    if isinstance(family, Family):
        found |= family.origin(checked(f"model {name}", options_of(build), options))
    return found


def build_model(
    name: str, *, num_classes: int, channels: int, size: int, options: Mapping[str, object] | None = None
) -> nn.Module:
    """Build a network by its registered name.

    Its initial weights come from torch's global generator: seed it first (`torch.manual_seed(key(...))`).

    Args:
        name: a name of `kdzoo list models`, a family's with its member: "timm:resnet18".
        num_classes: classes K of its classifier.
        channels: channels of its input images.
        size: height and width of its input images in pixels.
        options: the model's own keyword arguments, texts or values.

    Returns:
        A module that maps [N, channels, size, size] float images to a `ModelOutput`.

    Raises:
        UsageError: an unknown name or option, or an input that the network cannot take.
    """
    build = find_model(name)
    values: dict[str, Any] = checked(f"model {name}", options_of(build), options or {})
    return build(num_classes, channels, size, **values)


def network_options(name: str, given: Mapping[str, object]) -> dict[str, Any]:
    """Check some options of a registered network, and leave those out that were not given.

    Args:
        name: a name of `kdzoo list models`.
        given: names and values; values may be texts.

    Returns:
        The given ones with values of their types: two spellings of one value are one.

    Raises:
        UsageError: an unknown name or option, or a value that it does not accept; all of them at once.
    """
    values = checked(f"model {name}", options_of(find_model(name)), given, partly=True)
    return {option: values[option] for option in values if option in given}


def output_shapes(network: nn.Module, channels: int, size: int) -> Shapes:
    """Find the shapes of a network's output for one image by running it once in evaluation mode.

    Args:
        network: as `build_model` makes it.
        channels: channels of its input images.
        size: height and width of its input images in pixels.
    """
    device = next(network.parameters()).device
    # Not all networks can live on the meta device of planning; such a one makes its tensors on its own.
    with device:
        return shapes_of(outputs_of(network, torch.zeros(1, channels, size, size)))


def outputs_of(network: nn.Module, images: Tensor) -> ModelOutput:
    """Run a network once in evaluation mode, without gradients, and leave it as it was.

    Args:
        network: returns a `ModelOutput`, or [N, K] logits.
        images: [N, C, H, W].

    Raises:
        UsageError: it returns something else.
    """
    with evaluating(network):
        return as_output(network(images))


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, without gradients, and leave it as it was.

    Args:
        network: any.
    """
    modes = {module: module.training for module in network.modules()}
    try:
        with torch.no_grad():
            network.eval()
            yield
    finally:
        # One by one, as some may have been frozen in evaluation mode on purpose.
        for module, training in modes.items():
            module.training = training


def count_parameters(network: nn.Module) -> int:
    """Count the trainable numbers of a network."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def check_input(
    who: str,
    *,
    num_classes: int | None = None,
    channels: int | None = None,
    size: int | None = None,
    smallest: int = 1,
) -> None:
    """Refuse an input that no network of this kind can take; what is not given is not checked.

    Args:
        who: the model, for the message: "model resnet18".
        num_classes: at least 1.
        channels: at least 1.
        size: at least `smallest`, in pixels.
        smallest: the smallest image of which the last stage keeps enough.

    Raises:
        UsageError: a number is too small.
    """
    for what, got, least in (
        ("num_classes", num_classes, 1),
        ("channels", channels, 1),
        ("size", size, smallest),
    ):
        if got is not None and got < least:
            raise usage(who, what, f"at least {least}", got)


class _Answer(nn.Module):
    """What a network is there for: its logits, or the images that an autoencoder gives back."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        output: ModelOutput = self.network(images)
        if output.logits is not None:
            return output.logits
        reconstruct = cast(Callable[[Tensor | None], Tensor], self.network.reconstruct)
        return reconstruct(output.embedding)


def flops(network: nn.Module, channels: int, size: int) -> int:
    """Count the multiply-adds from one image to its logits, or to its reconstruction where there are none.

    They are counted as fvcore does, in evaluation mode: convolutions, linear layers and attention by their
    products, batch norm as two an element; activations, sums and pooling are free.

    Args:
        network: as `build_model` makes it.
        channels: channels of its input images.
        size: height and width of its input images in pixels.
    """
    parameter = next(network.parameters())
    image = torch.zeros(1, channels, size, size, device=parameter.device, dtype=parameter.dtype)
    answer = _Answer(network)
    fused = torch.backends.mha.get_fastpath_enabled()
    try:
        # As one operation torch's own attention hides its products.
        torch.backends.mha.set_fastpath_enabled(False)
        with warnings.catch_warnings(), evaluating(answer):
            warnings.simplefilter("ignore")  # fvcore uses parts of torch.jit that torch calls deprecated.
            from fvcore.nn import FlopCountAnalysis

            analysis = FlopCountAnalysis(answer, image)
            analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_products)
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
            return int(analysis.total())
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


Spelling = tuple[tuple[str, str], ...]

# What stands before the names of a network from elsewhere, inside of its wrapper.
BARE = "network."


def names_in_file(network: nn.Module, given: Iterable[str]) -> dict[str, str]:
    """Find under which names a file keeps the tensors of a network.

    Public checkpoints of the same architecture have names of their own. A family declares them in its class
    attribute `spellings`; each is a tuple of (our part, their part), replaced in that order in names that
    begin and end with a dot. A network from elsewhere holds the bare one as `network`, which the checkpoints
    of its library do not know. The file's own names decide: the spelling that shares most of them holds, and
    ours where none shares more.

    Args:
        network: whose tensors they are.
        given: the names that the file has.

    Returns:
        The file's name for each tensor of the network, in its order, whether or not the file has it.
    """
    found = set(given)
    spellings: tuple[Spelling, ...] = ((), *getattr(network, "spellings", ()))
    own = list(network.state_dict())
    candidates = [{name: _spelled(name, spelling) for name in own} for spelling in spellings]
    candidates.append({name: name.removeprefix(BARE) for name in own})
    return max(candidates, key=lambda names: len(found.intersection(names.values())))


def _spelled(name: str, spelling: Spelling) -> str:
    name = f".{name}."
    for ours, theirs in spelling:
        name = name.replace(ours, theirs)
    return name[1:-1]


def _attention_products(inputs: Any, outputs: Any) -> int:
    """Count the products of queries with keys, and of the weights with values; fvcore does not know them."""
    sizes: list[list[int]] = [part.type().sizes() for part in inputs[:3]]
    query, key, value = sizes
    return math.prod(query) * key[-2] + math.prod(query[:-1]) * key[-2] * value[-1]
