"""A pair of networks with its data: what every contestant trains, and kdzoo's plan for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

import kdzoo
from kdzoo.checks import UsageError
from kdzoo.data import Dataset, load_dataset
from kdzoo.training.benchmark import Benchmark, load_benchmark
from kdzoo.training.loop import seeded_network
from kdzoo.training.plan import Plan

from ..steps.measure import part

# Those of Table 8, in an order that depends on nothing that is measured.
METHODS = ("kd", "dkd", "reffakd", "at", "pkt", "rkd", "fitnet", "kdsvd", "dkd+reffakd")
# Epochs that schedules are told of; none of them is trained to its end.
EPOCHS = 200
RANDOM = "cifar100_random"


@dataclass(frozen=True)
class Pair:
    """A benchmark of kdzoo with a part of its data, and a teacher of random weights.

    Attributes:
        benchmark: a name, or the path of a config.
        settings: of the benchmark.
        data: as many images as an epoch's steps take.
        told: what the data is, for the record.
        work: folder of artifacts.
        device: where all contestants work.
        lr: learning rate of all contestants, small enough to stay finite from any start.
    """

    benchmark: str
    settings: Benchmark
    data: Dataset
    told: str
    work: Path
    device: torch.device
    lr: float

    @property
    def name(self) -> str:
        """Name of the benchmark, unless the images are not its own."""
        return self.data.name if self.data.name == RANDOM else str(self.settings.name)

    @property
    def batch_size(self) -> int:
        """Samples of a step."""
        return int(self.settings.student.recipe.batch_size)

    @property
    def optimizer(self) -> dict[str, Any]:
        """Arguments of the students' optimizer, its type among them."""
        return {**self.settings.student.recipe.optimizer, "lr": self.lr}

    @property
    def networks(self) -> tuple[str, str]:
        """Names of teacher and student."""
        return self.settings.section("teacher").network, self.settings.student.network

    @property
    def teacher_file(self) -> Path:
        """Weights of the teacher."""
        return self.work / "teacher.safetensors"

    def plan(
        self, methods: Sequence[str], precision: str = "float32", bank: Path | None = None
    ) -> Plan:  # fmt: skip
        """Plan some methods as kdzoo would run them.

        Args:
            methods: in the grammar.
            precision: "float32" or "auto".
            bank: folder of the teacher bank; None for no bank.
        """
        options: dict[str, Any] = {"teacher_bank": "off"}
        if bank is not None:
            options = {"teacher_bank": bank, "views": 1}
        if self.teacher_file.exists():
            options["teacher_checkpoint"] = self.teacher_file
        return kdzoo.plan(
            benchmark=self.benchmark, data=self.data, methods=list(methods), epochs=EPOCHS, cae_epochs=1,
            work_dir=self.work, device=str(self.device), precision=precision,
            cfg_options={"recipe.optimizer.lr": self.lr}, **options,
        )  # fmt: skip

    def teacher(self) -> nn.Module:
        """Build the teacher as it comes, with the weights that all contestants give it."""
        plan = self.plan(["scratch"])
        network = plan.build_network(plan.benchmark.section("teacher"))
        network.load_state_dict(safetensors.torch.load_file(self.teacher_file))
        return network.to(self.device).requires_grad_(False)

    def student(self) -> nn.Module:
        """Build a student as it comes."""
        plan = self.plan(["scratch"])
        return seeded_network(lambda: plan.build_network(plan.benchmark.student), 0).to(self.device)


def load_pair(
    benchmark: str, data_root: Path | None, *, steps: int | None, work: Path, device: torch.device, lr: float
) -> Pair:  # fmt: skip
    """Load a benchmark, take as many of its images as some steps need, and make a teacher.

    Args:
        benchmark: a name of `kdzoo list benchmarks`, or the path of a config.
        data_root: where its data is; None looks in the usual places.
        steps: of an epoch; None takes all images, test images too.
        work: folder of artifacts.
        device: where contestants work.
        lr: learning rate of all contestants.
    """
    settings = load_benchmark(benchmark)
    count = None if steps is None else steps * settings.student.recipe.batch_size
    try:
        data = load_dataset(settings.data, data_root, settings.data_options)
        told = f"{count or len(data.train):,} of the {len(data.train):,} training images of {data.name}"
    except UsageError:
        if data_root is not None or settings.data != "cifar100" or count is None:
            raise
        data = _random_images(100 * math.ceil(count / 100))
        told = f"{count:,} random images in the shape of CIFAR-100, which is not at hand"
    if count is not None:
        test = part(data.test, 2 * len(data.classes))
        data = replace(data, train=part(data.train, count), test=test)
    pair = Pair(benchmark, settings, data, told, work, device, lr)
    if not pair.teacher_file.exists():
        safetensors.torch.save_file(_settled_teacher(pair).state_dict(), pair.teacher_file)
    return pair


def _random_images(count: int) -> Dataset:
    draw = np.random.default_rng(0)

    def images(count: int) -> Any:
        return draw.integers(0, 256, (count, 32, 32, 3), np.uint8), np.arange(count) % 100

    return kdzoo.from_arrays(*images(count), *images(200), name=RANDOM)


def _settled_teacher(pair: Pair) -> nn.Module:
    """Make a teacher whose batch norms fit its random weights, so that no map vanishes or explodes."""
    plan = pair.plan(["scratch"])
    teacher = seeded_network(lambda: plan.build_network(plan.benchmark.section("teacher")), 1)
    norms = [m for m in teacher.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        teacher.train()(torch.randn(64, pair.data.channels, plan.size, plan.size))
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    return teacher.eval()
