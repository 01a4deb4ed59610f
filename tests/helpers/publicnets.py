"""The networks of RepDistiller and mdistiller once more, as plain functions of a checkpoint's tensors.

Each follows the forward pass of the public code (https://github.com/HobbitLong/RepDistiller, models/) and
asks for its tensors by the names that public checkpoints have, so that names, shapes and places come from one
spelling. Nothing of kdzoo is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, batch_norm, conv2d, linear, max_pool2d, relu


class Public(NamedTuple):
    """What a public network gives: logits, the pooled vector, and its features before and after ReLU."""

    logits: Tensor
    pooled: Tensor
    preacts: list[Tensor]
    feats: list[Tensor]


class Checkpoint:
    """The tensors of a checkpoint in float32: each is drawn when it is first asked for (on meta: a shape)."""

    def __init__(self, device: str = "cpu") -> None:
        self.tensors: dict[str, Tensor] = {}
        self.device = device
        self.generator = torch.Generator().manual_seed(0)

    def _draw(self, name: str, shape: tuple[int, ...], low: float, high: float) -> Tensor:
        if name not in self.tensors:
            drawn = torch.empty(shape, device=self.device)
            if self.device != "meta":
                drawn.uniform_(low, high, generator=self.generator)
            self.tensors[name] = drawn
        return self.tensors[name] if self.device == "meta" else self.tensors[name].double()

    def conv(
        self,
        x: Tensor,
        name: str,
        width: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> Tensor:
        shape = (width, x.shape[1] // groups, kernel, kernel)
        bound = math.sqrt(6 / (shape[1] * kernel * kernel))
        weight = self._draw(f"{name}.weight", shape, -bound, bound)
        shift = self._draw(f"{name}.bias", (width,), -1, 1) if bias else None
        return conv2d(x, weight, shift, stride, kernel // 2, groups=groups)

    def norm(self, x: Tensor, name: str) -> Tensor:
        shape = (x.shape[1],)
        weight, bias = self._draw(f"{name}.weight", shape, 0.5, 1.5), self._draw(f"{name}.bias", shape, -1, 1)
        mean = self._draw(f"{name}.running_mean", shape, -1, 1)
        var = self._draw(f"{name}.running_var", shape, 0.5, 2)
        self.tensors.setdefault(f"{name}.num_batches_tracked", torch.zeros((), dtype=torch.int64))
        return batch_norm(x, mean, var, weight, bias)

    def linear(self, x: Tensor, name: str, width: int) -> Tensor:
        weight = self._draw(f"{name}.weight", (width, x.shape[1]), -0.5, 0.5)
        return linear(x, weight, self._draw(f"{name}.bias", (width,), -1, 1))

    def conv_bn(
        self, x: Tensor, conv: str, bn: str, width: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> Tensor:
        return self.norm(self.conv(x, conv, width, kernel, stride, groups), bn)


Network = Callable[[Checkpoint, Tensor, int], Public]


def resnet(
    file: Checkpoint, x: Tensor, classes: int, *, stem: int, widths: tuple[int, ...], depths: tuple[int, ...],
    wide: int = 1, downsample: str = "downsample", head: str = "fc",
) -> Public:  # fmt: skip
    """models/resnet.py (downsample, fc) and models/resnetv2.py (shortcut, linear)."""
    x = relu(file.conv_bn(x, "conv1", "bn1", stem, 3))
    preacts, feats = [], []
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        for block in range(depth):
            name, stride = f"layer{stage + 1}.{block}", 2 if stage > 0 and block == 0 else 1
            if wide == 1:
                out = relu(file.conv_bn(x, f"{name}.conv1", f"{name}.bn1", width, 3, stride))
                out = file.conv_bn(out, f"{name}.conv2", f"{name}.bn2", width, 3)
            else:
                out = relu(file.conv_bn(x, f"{name}.conv1", f"{name}.bn1", width, 1))
                out = relu(file.conv_bn(out, f"{name}.conv2", f"{name}.bn2", width, 3, stride))
                out = file.conv_bn(out, f"{name}.conv3", f"{name}.bn3", width * wide, 1)
            if stride == 2 or x.shape[1] != width * wide:
                x = file.conv_bn(
                    x, f"{name}.{downsample}.0", f"{name}.{downsample}.1", width * wide, 1, stride
                )
            preact = out + x
            x = relu(preact)
        preacts.append(preact)
        feats.append(x)
    pooled = x.mean((2, 3))
    return Public(file.linear(pooled, head, classes), pooled, preacts, feats)


def wrn(file: Checkpoint, x: Tensor, classes: int, *, depth: int, times: int) -> Public:
    """models/wrn.py; a stage's features are the sums, "preact" the next batch norm of them."""
    x = file.conv(x, "conv1", 16, 3)
    sums = []
    for stage in (1, 2, 3):
        width = 16 * times * 2 ** (stage - 1)
        for block in range((depth - 4) // 6):
            name, stride = f"block{stage}.layer.{block}", 2 if stage > 1 and block == 0 else 1
            entered = relu(file.norm(x, f"{name}.bn1"))
            out = relu(file.norm(file.conv(entered, f"{name}.conv1", width, 3, stride), f"{name}.bn2"))
            out = file.conv(out, f"{name}.conv2", width, 3)
            x = out + (
                x if x.shape[1] == width else file.conv(entered, f"{name}.convShortcut", width, 1, stride)
            )
        sums.append(x)
    norms = ("block2.layer.0.bn1", "block3.layer.0.bn1", "bn1")
    preacts = [file.norm(total, name) for total, name in zip(sums, norms, strict=True)]
    pooled = relu(preacts[-1]).mean((2, 3))
    return Public(file.linear(pooled, "fc", classes), pooled, preacts, [relu(p) for p in preacts])


def vgg(file: Checkpoint, x: Tensor, classes: int, *, depths: tuple[int, ...]) -> Public:
    """models/vgg.py with batch norm; the features of all five blocks."""
    large, preacts, feats = x.shape[2] == 64, [], []
    for block, (width, depth) in enumerate(zip((64, 128, 256, 512, 512), depths, strict=True)):
        if block in (1, 2, 3) or (block == 4 and large):
            x = max_pool2d(x, 2)
        for layer in range(depth):
            x = relu(x) if layer else x
            x = file.conv(x, f"block{block}.{3 * layer}", width, 3, bias=True)
            x = file.norm(x, f"block{block}.{3 * layer + 1}")
        preacts.append(x)
        x = relu(x)
        feats.append(x)
    pooled = x.mean((2, 3))
    return Public(file.linear(pooled, "classifier", classes), pooled, preacts, feats)


def mobilenetv2(file: Checkpoint, x: Tensor, classes: int) -> Public:
    """models/mobilenetv2.py, mobile_half."""
    x = relu(file.conv_bn(x, "conv1.0", "conv1.1", 16, 3, 2))
    feats = []
    settings = (
        (1, 8, 1, 1),
        (6, 12, 2, 1),
        (6, 16, 3, 2),
        (6, 32, 4, 2),
        (6, 48, 3, 1),
        (6, 80, 3, 2),
        (6, 160, 1, 1),
    )
    for group, (expand, width, blocks, first) in enumerate(settings):
        for block in range(blocks):
            name, stride, wide = (
                f"blocks.{group}.{block}.conv",
                first if block == 0 else 1,
                x.shape[1] * expand,
            )
            out = relu(file.conv_bn(x, f"{name}.0", f"{name}.1", wide, 1))
            out = relu(file.conv_bn(out, f"{name}.3", f"{name}.4", wide, 3, stride, groups=wide))
            out = file.conv_bn(out, f"{name}.6", f"{name}.7", width, 1)
            x = x + out if stride == 1 and x.shape[1] == width else out
        if group in (1, 2, 4, 6):
            feats.append(x)
    pooled = relu(file.conv_bn(x, "conv2.0", "conv2.1", 1280, 1)).mean((2, 3))
    return Public(file.linear(pooled, "classifier.0", classes), pooled, feats, feats)


def shuffled(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).permute(0, 2, 1, 3, 4).reshape(n, c, h, w)


def shufflenetv1(file: Checkpoint, x: Tensor, classes: int) -> Public:
    """models/ShuffleNetv1.py."""
    x = relu(file.conv_bn(x, "conv1", "bn1", 24, 1))
    preacts, feats = [], []
    for stage, (width, blocks) in enumerate(((240, 4), (480, 8), (960, 4))):
        for block in range(blocks):
            name, stride = f"layer{stage + 1}.{block}", 2 if block == 0 else 1
            own = width - x.shape[1] if block == 0 else width
            groups = 1 if x.shape[1] == 24 else 3
            out = relu(file.conv_bn(x, f"{name}.conv1", f"{name}.bn1", own // 4, 1, groups=groups))
            out = shuffled(out, groups)
            out = relu(
                file.conv_bn(out, f"{name}.conv2", f"{name}.bn2", own // 4, 3, stride, groups=own // 4)
            )
            out = file.conv_bn(out, f"{name}.conv3", f"{name}.bn3", own, 1, groups=3)
            preact = torch.cat([out, avg_pool2d(x, 3, stride=2, padding=1)], 1) if stride == 2 else out + x
            x = relu(preact)
        preacts.append(preact)
        feats.append(x)
    pooled = x.mean((2, 3))
    return Public(file.linear(pooled, "linear", classes), pooled, preacts, feats)


def shufflenetv2(file: Checkpoint, x: Tensor, classes: int) -> Public:
    """models/ShuffleNetv2.py at size 1; its preacts are not shuffled, as its features are."""
    x = relu(file.conv_bn(x, "conv1", "bn1", 24, 1))
    preacts, feats = [], []
    for stage, (width, blocks) in enumerate(((116, 3), (232, 7), (464, 3))):
        name, half, inputs = f"layer{stage + 1}.0", width // 2, x.shape[1]
        left = file.conv_bn(x, f"{name}.conv1", f"{name}.bn1", inputs, 3, 2, groups=inputs)
        left = relu(file.conv_bn(left, f"{name}.conv2", f"{name}.bn2", half, 1))
        right = relu(file.conv_bn(x, f"{name}.conv3", f"{name}.bn3", half, 1))
        right = file.conv_bn(right, f"{name}.conv4", f"{name}.bn4", half, 3, 2, groups=half)
        right = relu(file.conv_bn(right, f"{name}.conv5", f"{name}.bn5", half, 1))
        x = shuffled(torch.cat([left, right], 1), 2)
        for block in range(1, blocks + 1):
            name = f"layer{stage + 1}.{block}"
            kept, out = x[:, :half], x[:, half:]
            out = relu(file.conv_bn(out, f"{name}.conv1", f"{name}.bn1", half, 1))
            out = file.conv_bn(out, f"{name}.conv2", f"{name}.bn2", half, 3, groups=half)
            out = file.conv_bn(out, f"{name}.conv3", f"{name}.bn3", half, 1)
            preact = torch.cat([kept, out], 1)
            x = shuffled(torch.cat([kept, relu(out)], 1), 2)
        preacts.append(preact)
        feats.append(x)
    pooled = relu(file.conv_bn(x, "conv2", "bn2", 1024, 1)).mean((2, 3))
    return Public(file.linear(pooled, "linear", classes), pooled, preacts, feats)


def _thin(depth: int, times: int = 1) -> Network:
    stem, depths = (16 if times == 1 else 32), ((depth - 2) // 6,) * 3
    return partial(resnet, stem=stem, widths=(16 * times, 32 * times, 64 * times), depths=depths)


def _four_stages(depths: tuple[int, ...], wide: int) -> Network:
    names = {"downsample": "shortcut", "head": "linear"}
    return partial(resnet, stem=64, widths=(64, 128, 256, 512), depths=depths, wide=wide, **names)


NETWORKS: dict[str, Network] = {
    **{f"resnet{depth}": _thin(depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": _thin(depth, 4) for depth in (8, 32)},
    "resnet18": _four_stages((2, 2, 2, 2), 1),
    "resnet34": _four_stages((3, 4, 6, 3), 1),
    "resnet50": _four_stages((3, 4, 6, 3), 4),
    "resnet101": _four_stages((3, 4, 23, 3), 4),
    **{f"wrn_{depth}_{k}": partial(wrn, depth=depth, times=k) for depth in (16, 40) for k in (1, 2)},
    "vgg8": partial(vgg, depths=(1, 1, 1, 1, 1)),
    "vgg11": partial(vgg, depths=(1, 1, 2, 2, 2)),
    "vgg13": partial(vgg, depths=(2, 2, 2, 2, 2)),
    "vgg16": partial(vgg, depths=(2, 2, 3, 3, 3)),
    "vgg19": partial(vgg, depths=(2, 2, 4, 4, 4)),
    "mobilenetv2": mobilenetv2,
    "shufflenetv1": shufflenetv1,
    "shufflenetv2": shufflenetv2,
}


def listed(name: str, classes: int = 100, channels: int = 3, size: int = 32) -> dict[str, Tensor]:
    """Give the names of a public checkpoint with tensors that have shapes alone."""
    file = Checkpoint("meta")
    NETWORKS[name](file, torch.empty(1, channels, size, size, device="meta"), classes)
    return file.tensors
