"""torchdistill's own training loop on the same networks, one method after another.

Its distillation box, forward hooks, criteria and data loaders are used as its example configurations do
(https://github.com/yoshitomo-matsubara/torchdistill): the teacher is not updated, and nobody puts it into
evaluation mode. The networks are wrapped, so that logits, embedding and stages are outputs of modules that
its hooks can name; where maps of two sizes meet, the wrapper pools, which its losses do not.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import RandomSampler

from kdzoo.functional.stages import StagePair
from kdzoo.outputs import ModelOutput

from .clock import Contestant, Marks
from .hints import hint_of, pooled, regressor_of, stage_pairs
from .pair import EPOCHS, Pair
from .pictures import Pictures, endless
from .surroundings import Surroundings

# What it has of Table 8; all other methods are charged as its kd.
METHODS = ("kd", "at", "fitnet", "pkt", "rkd")


class Exposed(nn.Module):
    """A network whose outputs come out of modules, for hooks to find.

    Args:
        network: gives a `ModelOutput`.
        stages: which stage, and the size that it is pooled to, for each module `stage0`, `stage1`, ...
        regressor: what makes FitNet's hint of the first of them.
    """

    def __init__(
        self, network: nn.Module, stages: Sequence[tuple[int, tuple[int, int] | None]],
        regressor: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.network = network
        self.embedding = nn.Identity()
        self.wanted = stages
        for place in range(len(stages)):
            self.add_module(f"stage{place}", nn.Identity())
        self.regressor = regressor

    def forward(self, images: Tensor) -> Tensor:
        """Give the logits; everything else is seen by hooks."""
        output: ModelOutput = self.network(images)
        self.embedding(output.embedding)
        for place, (stage, size) in enumerate(self.wanted):
            seen = self.get_submodule(f"stage{place}")(pooled(output.stages[stage], size))
            if self.regressor is not None:
                self.regressor(seen)
        return output.logits


def contestants(pair: Pair, bf16: bool) -> list[Contestant]:
    """Make torchdistill's methods, each at its defaults, as a careful user has them, and in bf16.

    Args:
        pair: networks and data.
        bf16: whether the device has it.

    Raises:
        ImportError: torchdistill is not installed.
    """
    import torchdistill.core.distillation  # noqa: F401

    # It says at length what it builds, by the root logger.
    logging.getLogger("torchdistill").setLevel(logging.WARNING)
    defaults, careful = pair.teacher().train(), pair.teacher().eval()
    pictures, pairs = Pictures(pair.data, pair.settings.views), stage_pairs(pair)
    ways = [
        ("torchdistill, defaults", defaults, "float32", Surroundings(raised=False, kdzoo=False)),
        ("torchdistill, careful", careful, "float32", Surroundings(raised=True, kdzoo=False)),
    ]
    if bf16:
        ways.append(("torchdistill, careful", careful, "bf16", Surroundings(raised=True, kdzoo=False)))
    made = []
    for who, teacher, precision, surroundings in ways:
        for method in METHODS:
            loop = _Loop(pair, method, teacher, pictures, pairs, precision)
            made.append(Contestant(who, method, precision, loop, surroundings, [loop.student]))
    return made


class _Loop:
    """A distillation box with its endless data loader."""

    def __init__(
        self, pair: Pair, method: str, teacher: nn.Module, pictures: Pictures,
        pairs: Sequence[StagePair], precision: str,
    ) -> None:  # fmt: skip
        from torchdistill.core.distillation import get_distillation_box

        self._pair, self._precision = pair, precision
        hint = hint_of(pairs)
        chosen = {"at": list(pairs), "fitnet": [hint]}.get(method, [])
        regressor = regressor_of(hint) if method == "fitnet" else None
        self.student = Exposed(pair.student(), [(p.student, p.size) for p in chosen], regressor)
        guide = Exposed(teacher, [(p.teacher, p.size) for p in chosen])
        self._box = get_distillation_box(
            guide, self.student, {"train": pictures}, _settings(pair, method, len(chosen)), pair.device,
            None, False, 1.0,
        )  # fmt: skip
        self._box.pre_epoch_process(epoch=0)
        self._batches = endless(self._box.train_data_loader)

    def __call__(self, marks: Marks) -> None:
        device = self._pair.device
        marks("loading")
        images, labels, more = next(self._batches)
        images, labels = images.to(device), labels.to(device)
        marks("training")
        with torch.autocast(device.type, torch.bfloat16, enabled=self._precision == "bf16"):
            loss = self._box.forward_process(images, labels, more)
        self._box.post_forward_process(loss=loss)


def _settings(pair: Pair, method: str, stages: int) -> dict[str, Any]:
    """Write a training configuration of torchdistill."""
    wanted = {"at": [f"stage{i}" for i in range(stages)], "fitnet": ["stage0"]}.get(method, ["embedding"])
    own = ["regressor"] if method == "fitnet" else wanted
    optimizer, forward = pair.optimizer, {"forward_proc": "forward_batch_only"}
    return {
        "num_epochs": EPOCHS,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler, "kwargs": {}},
            "kwargs": {"batch_size": pair.batch_size, "num_workers": 0},
        },
        "teacher": {
            **forward,
            "requires_grad": False,
            "forward_hook": {"output": [] if method == "kd" else wanted},
        },
        "student": {**forward, "forward_hook": {"output": [] if method == "kd" else own}},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": _terms(method, stages)}},
        "optimizer": {
            "key": optimizer["type"],
            "kwargs": {name: value for name, value in optimizer.items() if name != "type"},
        },
    }


def _terms(method: str, stages: int) -> dict[str, Any]:
    """Write the terms of a method with the weights of kdzoo's defaults."""
    both = {f"{role}_module_{k}": v for role in ("student", "teacher") for k, v in _OUTPUT["logits"].items()}
    if method == "kd":
        # Its alpha is the weight of the labels' term.
        kwargs = {**both, "temperature": 4.0, "alpha": 0.1, "reduction": "batchmean"}
        return {"kd": {"criterion": {"key": "KDLoss", "kwargs": kwargs}, "weight": 1.0}}
    both = {f"{role}_module_{k}": v for role in ("student", "teacher") for k, v in _OUTPUT["embed"].items()}
    paths = [{"io": "output", "path": f"stage{i}"} for i in range(stages)]
    criteria: dict[str, tuple[dict[str, Any], float]] = {
        "at": ({"key": "ATLoss", "kwargs": {
            "at_pairs": {f"pair{i}": {"teacher": p, "student": p} for i, p in enumerate(paths)}}}, 1000.0),
        "pkt": ({"key": "PKTLoss", "kwargs": both}, 30000.0),
        "rkd": ({"key": "RKDLoss", "kwargs": {
            "student_output_path": "embedding", "teacher_output_path": "embedding",
            "dist_factor": 25.0, "angle_factor": 50.0, "reduction": "mean"}}, 1.0),
        "fitnet": ({"key": "MSELoss", "kwargs": {"reduction": "mean"}}, 100.0),
    }  # fmt: skip
    criterion, weight = criteria[method]
    term: dict[str, Any] = {"criterion": criterion, "weight": weight}
    if method == "fitnet":
        term["criterion_wrapper"] = _wrapper("regressor", {
            "is_from_teacher": True, "module_path": "stage0", "io": "output"})  # fmt: skip
    labels = {
        "criterion": {"key": "CrossEntropyLoss", "kwargs": {"reduction": "mean"}},
        "criterion_wrapper": _wrapper(".", {"uses_label": True}),
        "weight": 1.0,
    }
    return {"label": labels, method: term}


_OUTPUT = {"logits": {"path": ".", "io": "output"}, "embed": {"path": "embedding", "io": "output"}}


def _wrapper(path: str, target: dict[str, Any]) -> dict[str, Any]:
    of_student = {"is_from_teacher": False, "module_path": path, "io": "output"}
    return {"key": "SimpleLossWrapper", "kwargs": {"input": of_student, "target": target}}
