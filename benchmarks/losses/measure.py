"""Measure every loss of the zoo, forward and backward, against a plain implementation of the same formula.

    python benchmarks/losses/measure.py --output benchmarks/losses/results/cpu.json

Outputs of two networks are drawn at random: stages of ResNet-18 at 32x32, embeddings of 512 (and of 84, as
LeNet-5's), logits of 10 and of 100 classes. In each round every loss is computed once in its plain form and
once by its distiller, one after the other, so that whoever else uses the machine disturbs both; medians
count. The plain form is called as a distiller is. "ours" makes the teacher's digest anew, "ours, shared"
finds it made, as all members of a cohort but the first do. On a CPU glibc's malloc keeps what it has, as in
the zoo's runs, for both sides.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import plain
import torch
from torch import Tensor

from kdzoo.distillers import Distiller, build_distiller
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, Setting, scores, shapes_of
from kdzoo.training.runtime import keep_memory

STAGES = ((64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4))
PROGRESS = Progress(199, 200, 0, 1)  # behind every warm-up


class PlainForm(Distiller):
    """A distiller whose forward pass is the plain form, so that both are called in one way."""

    def __init__(self, form: Callable[[ModelOutput, ModelOutput, Tensor], Tensor], teacher: ModelOutput):
        super().__init__()
        self.form, self.teacher = form, teacher

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        return {"plain": self.form(student, self.teacher, batch.labels)}


class Row(NamedTuple):
    """A loss with its inputs: the distiller, the plain form of the same term, and what takes gradients."""

    name: str
    distiller: Distiller
    student: ModelOutput
    teacher: ModelOutput
    labels: Tensor
    plain: PlainForm

    def by_plain_form(self) -> Tensor:
        batch = Batch(self.labels, self.labels, None)
        (term,) = self.plain(self.student, Guide(None, {}), batch, PROGRESS).values()
        return term

    def by_distiller(self, digest: dict[str, Tensor] | None = None) -> Tensor:
        if digest is None:
            digest = self.digest()
        needs_labels = "soft_labels" in self.distiller.needs
        guide = Guide(scores(self.teacher.logits) if needs_labels else None, digest)
        batch = Batch(self.labels, self.labels, None)
        terms = list(self.distiller(self.student, guide, batch, PROGRESS).values())
        return terms[0] if len(terms) == 1 else torch.stack(terms).sum()

    def digest(self) -> dict[str, Tensor]:
        return self.distiller.detached_digest(self.teacher) if self.distiller.needs_teacher() else {}

    def leaves(self) -> list[Tensor]:
        output = self.student
        given = [output.logits, output.embedding, *output.stages, *self.distiller.parameters()]
        return [t for t in given if t.requires_grad]


def output(samples: int, classes: int, width: int, *, seed: int, learns: bool, device: str) -> ModelOutput:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(samples, *shape, generator=generator)

    logits, embedding = 3 * drawn(classes), drawn(width).relu()
    tensors = [logits, embedding, *(drawn(*shape).relu() for shape in STAGES)]
    tensors = [t.to(device).requires_grad_(learns) for t in tensors]
    return ModelOutput(tensors[0], tensors[1], tuple(tensors[2:]))


def rows(samples: int, device: str) -> list[Row]:
    made = []

    def add(
        name: str, method: str, form: Callable[..., Tensor], *, classes: int = 10, width: int = 512
    ) -> None:
        student = output(samples, classes, width, seed=0, learns=True, device=device)
        teacher = output(samples, classes, 512, seed=1, learns=False, device=device)
        labels = torch.arange(samples, device=device) % classes
        setting = Setting(shapes_of(student), shapes_of(teacher), None, classes, labels.cpu())
        distiller = build_distiller(method, setting).to(device)
        made.append(Row(name, distiller, student, teacher, labels, PlainForm(form, teacher)))

    for classes in (10, 100):
        add(f"kd, {classes} classes", "kd", lambda s, t, y: 0.9 * plain.plain_kd(s.logits, t.logits),
            classes=classes)  # fmt: skip
        add(f"dkd, {classes} classes", "dkd", lambda s, t, y: plain.plain_dkd(s.logits, t.logits, y),
            classes=classes)  # fmt: skip
    add("at", "at", lambda s, t, y: 1000 * plain.plain_at(s.stages, t.stages))
    add("fitnet", "fitnet", lambda s, t, y: _plain_fitnet(made[_place(made, "fitnet")], s, t))
    add("kdsvd, width", "kdsvd", lambda s, t, y: plain.plain_kdsvd(s.stages, t.stages))
    for width in (512, 84):
        add(f"pkt, D = {width}", "pkt", lambda s, t, y: 30000 * plain.plain_pkt(s.embedding, t.embedding),
            width=width)  # fmt: skip
        add(f"rkd, D = {width}", "rkd", lambda s, t, y: plain.plain_rkd(s.embedding, t.embedding),
            width=width)  # fmt: skip
    return made


def _place(made: list[Row], name: str) -> int:
    return [row.name for row in made].index(name)


def _plain_fitnet(row: Row, student: ModelOutput, teacher: ModelOutput) -> Tensor:
    """The hint's loss behind the same regressor, whose time belongs to the method in both forms."""
    predicted = row.distiller.regressor(student.stages[row.distiller.pairs[0].student])
    return 100 * plain.plain_fitnet(predicted, teacher.stages[row.distiller.pairs[0].teacher])


def milliseconds(loss: Callable[[], Tensor], leaves: list[Tensor], device: str) -> float:
    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    # Python's own collection would hit whichever form makes more objects, however small.
    gc.disable()
    wait()
    began = time.perf_counter()
    torch.autograd.grad(loss(), leaves, allow_unused=True)
    wait()
    taken = 1e3 * (time.perf_counter() - began)
    gc.enable()
    return taken


def measured(row: Row, rounds: int, device: str) -> dict[str, float]:
    """Time both forms in turn; quick losses take more rounds."""
    leaves, digest = row.leaves(), row.digest()
    forms = {
        "plain": row.by_plain_form,
        "ours": row.by_distiller,
        "ours, shared": lambda: row.by_distiller(digest),
    }
    first = [milliseconds(loss, leaves, device) for loss in forms.values()]
    difference = abs(row.by_plain_form().item() - row.by_distiller().item())
    relative = difference / abs(row.by_plain_form().item())
    times: dict[str, list[float]] = {name: [] for name in forms}
    order = list(forms.items())
    for _ in range(max(rounds, min(60 * rounds, round(3000 / max(first))))):
        # Another one begins each time: a form finds in the caches what the one before it left there.
        order = [*order[1:], order[0]]
        for name, loss in order:
            times[name].append(milliseconds(loss, leaves, device))
    found = {f"{name} ms": round(median(values), 3) for name, values in times.items()}
    return found | {
        "plain / ours": round(median(times["plain"]) / median(times["ours"]), 2),
        "plain / ours, shared": round(median(times["plain"]) / median(times["ours, shared"]), 2),
        "rounds": len(times["plain"]),
        "values differ by": float(f"{relative:.1e}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--samples", type=int, default=256, help="of a batch")
    parser.add_argument(
        "--rounds", type=int, default=5, help="at least; a quick loss takes up to 60 times as many"
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--only", default="", help="losses whose names begin so")
    parser.add_argument("--output", type=Path, help="a JSON file to write, too")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_memory()
    losses = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for row in rows(options.samples, options.device):
            if row.name.startswith(options.only):
                losses[row.name] = measured(row, options.rounds, options.device)
                print(f"{row.name:18} {losses[row.name]}", flush=True)
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.machine()
    record = {
        "samples": options.samples,
        "stages": [list(stage) for stage in STAGES],
        "device": name,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load when it ended": [round(x, 1) for x in os.getloadavg()],
        "torch": torch.__version__,
        "losses": losses,
    }
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
