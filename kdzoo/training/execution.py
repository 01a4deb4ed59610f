"""How networks are run: precision and layout by a rule of network and device, batch norm folded, compiled or
not. Whatever of it changes numbers stands in keys and records."""

from __future__ import annotations

import copy
import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kdzoo.keys import key
from kdzoo.outputs import mapped

# bf16 units multiply blocks of 16 to 32 channels: narrower networks are left to float32.
WIDE = 128
# Of the largest value of an output: what folding may change, which is rounding.
ROUNDING = 1e-3


def chosen_precision(network: nn.Module, device: torch.device) -> str:
    """Choose a precision by rule: bf16 for a wide network where the device has it in hardware, else float32.

    A network is wide if it has a convolution (each group of its own) or a linear layer inside attention with
    at least 128 channels on both sides. Nothing is timed, so the choice is the same at every start.

    Args:
        network: on any device, "meta" too.
        device: where it will run.

    Returns:
        "float32" or "bf16".
    """
    return "bf16" if has_bf16(device) and any(map(_is_wide, network.modules())) else "float32"


def _is_wide(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return min(layer.in_channels, layer.out_channels) // layer.groups >= WIDE
    # Libraries that write their own attention have one projection to queries, keys and values.
    query = getattr(layer, "qkv", None)
    own = isinstance(query, nn.Linear) and query.in_features >= WIDE
    return own or (isinstance(layer, nn.MultiheadAttention) and layer.embed_dim >= WIDE)


def has_bf16(device: torch.device) -> bool:
    """Say whether a device multiplies bfloat16 in hardware: a CPU with AVX512_BF16 or AMX_BF16, a GPU since
    Ampere."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def laid_out(network: nn.Module, precision: str) -> nn.Module:
    """Bring a network's weights into the layout in which `run_network` runs it: channels last in bf16, whose
    kernels want it; as it is in float32, where students gain nothing.

    Args:
        network: changed in place.
        precision: "float32" or "bf16".
    """
    return network.to(memory_format=torch.channels_last) if precision == "bf16" else network


def for_teaching(network: nn.Module, precision: str, channels: int, size: int) -> nn.Module:
    """Copy a network for the many passes of a teacher: batch norm folded, channels last, weights in the
    precision of their products.

    Autocast would round the same weights to bfloat16 in every pass, so that rounding them once changes
    nothing. Folding changes no more than rounding does: the copy is tried on keyed numbers, and a network
    that uses its layers in another order than they stand in stays as it is.

    Args:
        network: it stays as it is.
        precision: "float32" or "bf16".
        channels: of its images.
        size: of its images in pixels.

    Returns:
        A copy in evaluation mode, without gradients.
    """
    plain = copy.deepcopy(network).eval().requires_grad_(False)
    fused = copy.deepcopy(plain)
    for layers, conv, norm in list(_pairs(fused)):
        layers[conv] = fuse_conv_bn_eval(cast(nn.Conv2d, layers[conv]), cast(nn.BatchNorm2d, layers[norm]))
        layers[norm] = nn.Identity()
    made = fused if _same(plain, fused, channels, size) else plain
    if precision == "bf16":
        for layer in made.modules():
            if type(layer) in (nn.Conv2d, nn.Linear):
                layer.to(torch.bfloat16)
    return made.to(memory_format=torch.channels_last)


def _pairs(network: nn.Module) -> Iterator[tuple[dict[str, nn.Module], str, str]]:
    """Find convolutions and the batch norms that take what they give: the next in a sequence, or `conv2` and
    `bn2`, as the libraries of networks call them."""
    for module in network.modules():
        layers = cast("dict[str, nn.Module]", module._modules)
        following = pairwise(layers) if isinstance(module, nn.Sequential) else ()
        named = ((name, name.replace("conv", "bn")) for name in layers if name.startswith("conv"))
        for first, second in (*following, *named):
            conv, norm = layers[first], layers.get(second)
            # Kinds of their own may do something else, and hooks may look at what is between.
            watched = conv._forward_hooks or (norm is not None and norm._forward_hooks)
            if type(conv) is not nn.Conv2d or type(norm) is not nn.BatchNorm2d or watched:
                continue
            # Where batch norm comes before, it has the channels of what the convolution is given.
            if norm.running_mean is not None and norm.num_features == conv.out_channels:
                yield layers, first, second


@torch.no_grad()
def _same(one: nn.Module, other: nn.Module, channels: int, size: int) -> bool:
    device = next(one.parameters()).device
    generator = torch.Generator().manual_seed(key(0, "folding"))
    images = torch.randn(2, channels, size, size, generator=generator).to(device)
    found: list[list[Tensor]] = [[], []]
    for tensors, network in zip(found, (one, other), strict=True):
        mapped(network(images), tensors.append)
    return all(bool((a - b).abs().max() <= ROUNDING * a.abs().max()) for a, b in zip(*found, strict=True))


def chosen_compile(asked: str, device: torch.device) -> tuple[bool, str | None]:
    """Choose whether `torch.compile` makes the passes of students and teacher.

    "auto" is off: no record shows a gain yet, on CPUs or GPUs.

    Args:
        asked: "auto", "on" or "off".
        device: where networks run.

    Returns:
        The choice, and a remark where it is not what was asked for.
    """
    if asked != "on":
        return False, None
    fault = _compiler_fault(device)
    return fault is None, fault and f"Nothing is compiled: {fault}."


def _compiler_fault(device: torch.device) -> str | None:
    if device.type == "cuda":
        return None if importlib.util.find_spec("triton") else "triton is not installed"
    found = [shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++", "cl")]
    return None if any(found) else "there is no C++ compiler (g++, clang++) here"


@contextmanager
def compiling(enabled: bool) -> Iterator[None]:
    """Keep torch's compiler from giving up in silence: falling back to plain kernels would change numbers.

    Args:
        enabled: whether anything is compiled.
    """
    if not enabled:
        yield
        return
    import torch._dynamo

    # Members of one architecture share graphs; each shape and mode (training, the last short batch,
    # evaluation) has one of its own, so that numbers do not depend on which shapes came before.
    with torch._dynamo.config.patch(
        recompile_limit=4096, accumulated_recompile_limit=16384, fail_on_recompile_limit_hit=True
    ):
        yield
