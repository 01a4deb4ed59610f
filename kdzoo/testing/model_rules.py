"""Rules about networks: what they return, what they depend on, and what they leave alone."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from kdzoo.checks import UsageError, options_of
from kdzoo.models import flops, output_shapes
from kdzoo.outputs import ModelOutput, shapes_of
from kdzoo.testing.contract import ContractError, Watch, built, seed
from kdzoo.testing.declarations import check_options
from kdzoo.testing.options import idle_option


@dataclass(frozen=True)
class ModelSubject:
    """A network under check.

    Attributes:
        make: builds it from (num_classes, channels, size) and options.
        options: set for all checks.
        classes: number of classes.
        channels: of its input images.
        size: of its input images in pixels.
    """

    make: Callable[..., nn.Module]
    options: Mapping[str, Any]
    classes: int
    channels: int
    size: int

    def build(self, start: int = 0, /, **options: Any) -> nn.Module:
        """Build the network with initial weights that follow `start`.

        Raises:
            Unusable: it cannot be built as the user builds it.
        """
        with nullcontext() if options else built():
            return self.build_here(start, **options)

    def build_here(self, start: int = 0, /, **options: Any) -> nn.Module:
        """Build the network on a device that only a rule asks for."""
        seed(start)
        return self.make(self.classes, self.channels, self.size, **{**self.options, **options})

    def images(self, count: int = 3) -> Tensor:
        """Give [count, channels, size, size] images, the same ones at each call."""
        generator = torch.Generator().manual_seed(11)
        return torch.randn(count, self.channels, self.size, self.size, generator=generator)


def declares_itself(subject: ModelSubject) -> None:
    """It has a docstring and takes (num_classes, channels, size); options are documented."""
    if not (inspect.getdoc(subject.make) or "").strip():
        raise ContractError("it must have a docstring; its first line is shown by `kdzoo list models`.")
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    sized = [n for n, p in inspect.signature(subject.make).parameters.items() if p.kind in kinds]
    if sized != ["num_classes", "channels", "size"]:
        raise ContractError(
            f"it must take (num_classes, channels, size) and options behind '*', got {sized} before them."
        )
    check_options(options_of(subject.make))


def returns_a_model_output(subject: ModelSubject) -> None:
    """Logits [N, K], an embedding [N, D], stages [N, C, H, W] from fine to coarse, in both modes alike."""
    network, found = subject.build(), {}
    for mode in (True, False):
        output = _run(network.train(mode), subject.images())
        _check_output(subject, network, output)
        found[mode] = shapes_of(output)
    if found[True] != found[False]:
        raise ContractError(
            f"it returns other shapes in training mode ({found[True]}) than in evaluation mode "
            f"({found[False]}). What a network returns must not depend on who asks."
        )


def _check_output(subject: ModelSubject, network: nn.Module, output: ModelOutput) -> None:
    shape = None if output.logits is None else list(output.logits.shape)
    if shape != [3, subject.classes] and not (shape is None and hasattr(network, "reconstruct")):
        raise ContractError(
            f"logits must be [N, num_classes], [3, {subject.classes}] here, got {shape}. Only a network with "
            "reconstruct(embedding), an autoencoder, may have none."
        )
    if output.embedding is not None and (output.embedding.ndim != 2 or len(output.embedding) != 3):
        raise ContractError(f"embedding must be [N, D], got {list(output.embedding.shape)}.")
    for name in ("stages", "preactivations"):
        maps = getattr(output, name)
        if maps is None:
            continue
        if not isinstance(maps, tuple) or not all(isinstance(m, Tensor) and m.ndim == 4 for m in maps):
            raise ContractError(f"{name} must be a tuple of [N, C, H, W] tensors.")
        sizes = [m.shape[2] * m.shape[3] for m in maps]
        if sizes != sorted(sizes, reverse=True) or any(len(m) != 3 for m in maps):
            raise ContractError(f"{name} must go from fine to coarse, got {[list(m.shape) for m in maps]}.")
    if output.preactivations is not None and (
        output.stages is None or len(output.stages) != len(output.preactivations)
    ):
        raise ContractError("preactivations must be those of the stages, one for each.")


def embedding_feeds_the_classifier(subject: ModelSubject) -> None:
    """Where it has a `classifier`, its logits are the classifier's answer to the embedding."""
    network = subject.build().eval()
    classifier = getattr(network, "classifier", None)
    output = _run(network, subject.images())
    if not isinstance(classifier, nn.Module) or output.embedding is None:
        return
    with torch.no_grad():
        again = classifier(output.embedding)
    if again.shape != output.logits.shape or not torch.allclose(again, output.logits, rtol=1e-4, atol=1e-5):
        raise ContractError(
            "classifier(embedding) must give the logits: methods reuse a teacher's classifier. Return as "
            "embedding what goes into it, or give the module another name."
        )


def gradients_are_finite_and_reach_everything(subject: ModelSubject) -> None:
    """Losses on all that it returns have finite gradients, and every trainable parameter gets one."""
    network = subject.build().train()
    output: ModelOutput = network(subject.images())
    answers = [tensor for _, tensor in _tensors(output)]
    if output.logits is None:
        answers.append(cast(Callable[[Tensor], Tensor], network.reconstruct)(output.embedding))
    torch.autograd.backward(torch.stack([answer.square().mean() for answer in answers]).sum())
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and parameter.grad is None:
            raise ContractError(
                f"{name} gets no gradient from anything that it returns. Drop it, or freeze it."
            )
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            raise ContractError(f"the gradient of {name} is not finite on ordinary images.")


def samples_stand_alone(subject: ModelSubject) -> None:
    """In evaluation mode an image's output depends on that image alone."""
    network = subject.build().eval()
    whole, part = _run(network, subject.images()), _run(network, subject.images()[:2])
    for (name, one), (_, other) in zip(_tensors(whole), _tensors(part), strict=True):
        if not torch.allclose(one[:2], other, rtol=1e-3, atol=1e-4 * float(one.abs().max())):
            raise ContractError(
                f"{name} of an image changes with the other images of its batch in evaluation mode."
            )


def forward_passes_repeat(subject: ModelSubject) -> None:
    """With torch's generator in one place a pass gives the same bits again: nothing else is drawn from."""
    network = subject.build()
    for mode in (True, False):
        found = []
        for copied in (copy.deepcopy(network), copy.deepcopy(network)):
            seed(5)
            found.append(_run(copied.train(mode), subject.images()))
        one, other = found
        _same_bits(
            one,
            other,
            "a pass through a copy gives other numbers: it draws from something other than torch's default "
            "generator, or shares state with its copies.",
        )
    first, second = (_run(network.eval(), subject.images()) for _ in range(2))
    _same_bits(
        first,
        second,
        "a second pass in evaluation mode gives other numbers. Keep nothing from one pass to the next.",
    )


def initial_weights_follow_the_seed(subject: ModelSubject) -> None:
    """Two networks of one seed are alike bit for bit, and of two seeds are not."""
    one, same, other = (subject.build(start).state_dict() for start in (0, 0, 1))
    if any(not torch.equal(one[name], same[name]) for name in one):
        raise ContractError("its initial weights do not follow torch's default generator.")
    if all(torch.equal(one[name], other[name]) for name in one):
        raise ContractError("its initial weights are the same for every seed.")


def nothing_given_is_written_to(subject: ModelSubject) -> None:
    """It leaves its images as they are: all members of a cohort get the same ones."""
    network, watch = subject.build(), Watch()
    images = subject.images()
    watch.add({"its images": images})
    network.train()(images)
    watch.check()


def state_comes_back(subject: ModelSubject) -> None:
    """What is saved in a safetensors file and loaded into a new one gives the same bits."""
    network, fresh = subject.build(0).eval(), subject.build(1).eval()
    # A pass in training mode moves running statistics.
    network.train()(subject.images())
    kept = {name: t.detach().clone().contiguous() for name, t in network.state_dict().items()}
    fresh.load_state_dict(safetensors.torch.load(safetensors.torch.save(kept)))
    _same_bits(
        _run(network.eval(), subject.images()),
        _run(fresh, subject.images()),
        "a network that was saved and loaded gives other numbers. Keep state in parameters or buffers.",
    )


def can_be_planned_without_weights(subject: ModelSubject) -> None:
    """It is built and run on torch's meta device: plans ask for shapes before anything is trained."""
    with torch.device("meta"):
        shapes = output_shapes(subject.build_here(), subject.channels, subject.size)
    real = output_shapes(subject.build(), subject.channels, subject.size)
    if shapes != real:
        raise ContractError(f"its shapes on the meta device are {shapes}, and {real} elsewhere.")


def everything_stays_on_the_device(subject: ModelSubject) -> None:
    """On a GPU everything that it returns is on the GPU, and nothing waits for it."""
    with FakeTensorMode(), torch.device("cuda"):
        network = subject.build_here()
        output = network(torch.randn(3, subject.channels, subject.size, subject.size))
        for name, tensor in _tensors(output):
            if tensor.device.type != "cuda":
                raise ContractError(
                    f"{name} is on {tensor.device}, not where the images are. Make tensors with device=."
                )


def runs_in_bf16(subject: ModelSubject) -> None:
    """Under autocast to bfloat16 everything is finite."""
    network = subject.build().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(subject.images())
    for name, tensor in _tensors(output):
        if not tensor.isfinite().all():
            raise ContractError(f"{name} is not finite under autocast to bfloat16.")


def can_be_recorded(subject: ModelSubject) -> None:
    """Its multiply-adds can be counted without changing it."""
    network = subject.build().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    if flops(network, subject.channels, subject.size) <= 0:
        raise ContractError("fvcore counts no multiply-adds in it.")
    moved = [name for name, tensor in network.state_dict().items() if not torch.equal(before[name], tensor)]
    if moved:
        raise ContractError(f"a pass in evaluation mode changes {moved[0]}.")


def every_option_changes_it(subject: ModelSubject) -> None:
    """No option is parsed and ignored, and none of its choices does what another does."""

    def found(options: Mapping[str, Any]) -> list[Any]:
        try:
            network = subject.build(**options)
        except UsageError:
            return [None, None]
        seed(5)
        output = network.train()(subject.images())
        return [str(network), [t.detach().numpy().tobytes() for _, t in _tensors(output)]]

    fault = idle_option(options_of(subject.make), subject.options, found)
    if fault:
        raise ContractError(f"{fault}, neither a layer nor an output. Use it, or drop it.")


def _run(network: nn.Module, images: Tensor) -> ModelOutput:
    with torch.no_grad():
        output = network(images)
    if not isinstance(output, ModelOutput):
        raise ContractError(f"it must return a kdzoo.ModelOutput, got {type(output).__name__}.")
    return output


def _tensors(output: ModelOutput) -> Iterator[tuple[str, Tensor]]:
    for field, value in output._asdict().items():
        if isinstance(value, Tensor):
            yield field, value
        elif value is not None:
            yield from ((f"{field}[{place}]", tensor) for place, tensor in enumerate(value))


def _same_bits(one: ModelOutput, other: ModelOutput, words: str) -> None:
    for (name, first), (_, second) in zip(_tensors(one), _tensors(other), strict=True):
        if not torch.equal(first, second):
            raise ContractError(f"{name}: {words}")
