"""The teacher bank of a plan: where it is, what it will keep, and what is said of it."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kdzoo.data.picture_files import PictureFiles
from kdzoo.distillers.base import Distiller, build_distiller
from kdzoo.keys import fingerprint
from kdzoo.outputs import Setting
from kdzoo.results.store import slug
from kdzoo.sources import build_source
from kdzoo.sources.base import Source
from kdzoo.training.artifacts import ArtifactPlan
from kdzoo.training.keeping import Keeping, keep_what_fits, wants_of
from kdzoo.training.plan import Plan, PlannedMember, setting_of
from kdzoo.training.runtime import environment


def bank_of(plan: Plan, teacher: ArtifactPlan, seed: int) -> tuple[Path, dict[str, Any]]:
    """Give the folder of a teacher's bank, and all that its rows depend on.

    Views that repeat are the same as the first ones of views that do not, so both share a bank. Rows are bits
    of one kind of machine, and of batches of one size: others round differently. A teacher that is yet to be
    trained has no bank; where banks are is all that can be told of it.
    """
    here, weights = environment(plan.device), teacher.weights()
    settings = json.loads(json.dumps({
        "teacher": teacher.key, "weights": weights, "network": teacher.section.network,
        "pass": plan.teacher_pass(), "versions": _versions(plan, teacher, here["versions"]),
        "data": {**plan.protocol["data"], "views": replace(plan.benchmark.views, repeat=None).described()},
        "val_fraction": plan.benchmark.val_fraction, "seed": seed, "batch": plan.batch_rows,
        "machine": {name: here[name] for name in ("device_name", "cpu_capability", "threads")},
    }))  # fmt: skip
    root = plan.work_dir / "banks" if plan.bank is None else plan.bank
    name = f"{slug(teacher.section.network)}-seed{seed}-{fingerprint(settings)[:8]}"
    return (root if weights is None else root / name), settings


def _versions(plan: Plan, teacher: ArtifactPlan, installed: Mapping[str, str]) -> dict[str, str]:
    """Give the versions of what computes a teacher's answers, builds it, and decodes its pictures."""
    library = teacher.section.network.partition(":")[0]
    used = ["torch", *([library] if library in ("timm", "torchvision") else [])]
    versions = {name: installed[name] for name in used}
    if isinstance(plan.data.train.images, PictureFiles):
        versions["pillow"] = importlib.metadata.version("pillow")
    return versions


def keeping_of(
    plan: Plan,
    members: Iterable[PlannedMember],
    setting: Setting,
    distillers: Mapping[str, Distiller | None],
) -> Keeping:
    """Choose what the bank of a cohort keeps.

    Args:
        plan: says whether there is one, where, and how large it may be.
        members: of the cohort.
        setting: of the pair of networks.
        distillers: of the members, by the names of their methods.
    """
    members = list(members)
    users = [m for m in members if "teacher" in m.artifacts]
    if plan.bank_limit == 0 or not users:
        return Keeping()
    readers = []
    for member in users:
        method = member.method
        source: Source | None = build_source(method.source, method.source_options) if method.source else None
        readers.append((method.name, distillers[method.name], source))
    wants, running = wants_of(readers, setting.teacher, setting.student, plan.benchmark.digests)
    epochs, repeat = plan.benchmark.student.recipe.epochs, plan.benchmark.views.repeat
    folder, _ = bank_of(plan, plan.artifacts[users[0].artifacts["teacher"]], users[0].seed)
    return keep_what_fits(
        wants, running, samples=len(plan.data.train), views=min(epochs, repeat or epochs), folder=folder,
        limit=plan.bank_limit,
    )  # fmt: skip


def told_of(keeping: Keeping, folder: Path) -> list[str]:
    """Say what a bank keeps and how large it is, and who keeps the teacher running."""
    lines = [f"teacher bank: {gigabytes(keeping.bytes)} in {folder}"] if keeping.kept else []
    large = [f"{', '.join(want.users)} ({want.entry.name})" for want in keeping.left]
    if large:
        lines.append(
            f"teacher bank: too large to be kept: {'; '.join(large)}; so the teacher keeps running. "
            + (
                "A bank takes no more than half of the free disk: make room there, or choose another folder "
                "by --teacher-bank."
                if keeping.short == "the disk"
                else "See --bank-limit and --views."
            )
        )
    lines += [
        f"teacher bank: the teacher keeps running for {name}: {why.rstrip('.')}."
        for name, why in keeping.running.items()
    ]
    return lines


def describe_bank(plan: Plan) -> list[str]:
    """Say what the bank of a plan's first seed would keep; nothing is trained or written."""
    members = [m for m in plan.pending() if m.seed == plan.seeds[0]]
    if not any("teacher" in m.artifacts for m in members) or plan.bank_limit == 0:
        return []
    setting = setting_of(plan, teacher=True)
    # Trained parts of a method draw their initial weights: planning leaves the generator where it was.
    with torch.random.fork_rng(devices=[]):
        distillers = {
            m.method.name: build_distiller(m.method.distiller, setting, m.method.options) for m in members
        }
    keeping = keeping_of(plan, members, setting, distillers)
    teacher = next(plan.artifacts[m.artifacts["teacher"]] for m in members if "teacher" in m.artifacts)
    return told_of(keeping, bank_of(plan, teacher, plan.seeds[0])[0])


def gigabytes(size: int) -> str:
    """Give bytes in a unit that is read at a glance."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
