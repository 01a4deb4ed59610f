"""How networks are run: rules of precision, folding, layouts, compilation, and memory that is kept."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from kdzoo.models import build_model
from kdzoo.outputs import ModelOutput
from kdzoo.training import execution, runtime
from kdzoo.training.execution import chosen_compile, chosen_precision, for_teaching, has_bf16, laid_out
from kdzoo.training.networks import run_network

CPU = torch.device("cpu")


def network(name: str, size: int = 32) -> nn.Module:
    """A network with batch norms that have seen something."""
    torch.manual_seed(0)
    made = build_model(name, num_classes=5, channels=3, size=size)
    for norm in made.modules():
        if (
            isinstance(norm, nn.BatchNorm2d)
            and norm.running_mean is not None
            and norm.running_var is not None
        ):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 2)
    return made.eval()


def norms(made: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in made.modules())


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("resnet8", 0), ("resnet18", 0), ("vgg8", 0), ("mobilenetv2", 0), ("shufflenetv1", 0),
        ("timm:resnet18", 0), ("torchvision:resnet18", 0), ("wrn_16_1", 7),
    ],
)  # fmt: skip
def test_a_teacher_is_folded_and_says_the_same(name, left):
    plain = network(name)
    before = {n: t.clone() for n, t in plain.state_dict().items()}
    made = for_teaching(plain, "float32", 3, 32)
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected, found = plain(images), made(images)
    scale = expected.logits.abs().max()
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-4 * scale.item())
    for stage, other in zip(found.stages, expected.stages, strict=True):
        torch.testing.assert_close(stage, other, rtol=0, atol=1e-4 * other.abs().max().item())
    assert norms(made) == left
    assert not any(p.requires_grad for p in made.parameters())
    assert all(torch.equal(t, before[n]) for n, t in plain.state_dict().items())


class Crossed(nn.Module):
    """Has its layers in another order than it uses them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

    def forward(self, images: torch.Tensor) -> ModelOutput:
        conv, norm = self.layers
        between = conv(images)
        logits = (norm(between) + between.square()).mean(dim=(2, 3))
        return ModelOutput(logits, logits)


def test_a_network_that_would_come_out_different_is_not_folded():
    crossed = Crossed().eval()
    cast(Tensor, crossed.layers[1].running_mean).fill_(0.5)
    assert norms(for_teaching(crossed, "float32", 3, 8)) == 1


def test_weights_in_bf16_give_what_autocast_gives():
    plain = network("resnet8")
    images = torch.randn(4, 3, 32, 32)
    once = for_teaching(plain, "bf16", 3, 32)
    always = for_teaching(plain, "float32", 3, 32)
    assert {p.dtype for p in once.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        assert torch.equal(
            run_network(once, images, "bf16").logits, run_network(always, images, "bf16").logits
        )


@pytest.mark.parametrize(
    ("name", "wide"),
    [
        ("lenet5", False), ("resnet8", False), ("resnet20", False), ("resnet18", True), ("resnet32x4", True),
        ("vgg8", True), ("autoencoder", False), ("timm:vit_tiny_patch16_224", True),
    ],
)  # fmt: skip
def test_precision_auto_is_bf16_for_wide_networks_where_the_device_has_it(name, wide, monkeypatch):
    made = build_model(name, num_classes=5, channels=3, size=32)
    monkeypatch.setattr(execution, "has_bf16", lambda device: True)
    assert chosen_precision(made, CPU) == ("bf16" if wide else "float32")
    monkeypatch.setattr(execution, "has_bf16", lambda device: False)
    assert chosen_precision(made, CPU) == "float32"


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16", "avx512f"])
def test_a_processor_has_bf16_if_it_says_so(flag, monkeypatch):
    monkeypatch.setattr(execution.Path, "read_text", lambda path: f"model name : x\nflags : fpu {flag}\n")
    assert has_bf16(CPU) == (flag != "avx512f")


def test_only_bf16_changes_the_layout_of_a_student():
    plain = network("resnet8")
    conv = next(m for m in plain.modules() if isinstance(m, nn.Conv2d) and m.in_channels > 3)
    assert laid_out(plain, "float32") is plain
    assert conv.weight.is_contiguous()
    laid_out(plain, "bf16")
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_nothing_is_compiled_unless_asked_for_and_without_a_compiler_there_is_a_remark(monkeypatch):
    assert chosen_compile("auto", CPU) == (False, None)
    assert chosen_compile("off", CPU) == (False, None)
    monkeypatch.setattr(execution.shutil, "which", lambda name: "/usr/bin/g++" if name == "g++" else None)
    assert chosen_compile("on", CPU) == (True, None)
    monkeypatch.setattr(execution.shutil, "which", lambda name: None)
    chosen, remark = chosen_compile("on", CPU)
    assert not chosen
    assert remark == "Nothing is compiled: there is no C++ compiler (g++, clang++) here."


def test_memory_is_kept_on_glibc_and_a_choice_of_the_users_own_is_left_alone(monkeypatch):
    for name in ("MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    assert runtime.keep_memory() == (runtime.platform.libc_ver()[0] == "glibc")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000")
    assert not runtime.keep_memory()
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=1000")
    assert not runtime.keep_memory()
