"""How long a plan will take, from seconds that were recorded on this machine; unknown where nothing was."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from kdzoo.results.record import Record
from kdzoo.results.store import read_records
from kdzoo.training.artifacts import ArtifactPlan
from kdzoo.training.plan import Plan, PlannedMember
from kdzoo.training.runtime import environment


def estimate(plan: Plan, pending: list[PlannedMember], artifacts: Iterable[ArtifactPlan]) -> float | None:
    """Estimate the seconds that a plan will take.

    Args:
        plan: benchmark, work directory, device.
        pending: members without a record.
        artifacts: those that must be trained.

    Returns:
        Seconds; None if for any part nothing comparable was recorded: the same networks, data, batch size,
        precision and method, on the same device with the same number of threads.
    """
    here = _place(environment(plan.device))
    runs = plan.work_dir / "runs"
    records = [r for r in (read_records([runs]) if runs.is_dir() else []) if _place(r.environment) == here]
    parts = [_artifact_seconds(plan, a, here) for a in artifacts]
    for seed in {m.seed for m in pending}:
        cohort = [m for m in pending if m.seed == seed]
        known = [_like(plan, m, records) for m in cohort]
        shared = [t.get("shared_seconds_per_epoch") for t in known if t]
        for member, timing in zip(cohort, known, strict=True):
            left = plan.benchmark.student.recipe.epochs - (member.position.epoch if member.position else 0)
            own = timing.get("seconds_per_epoch") if timing else None
            parts.append(None if own is None else own * left)
        epochs = plan.benchmark.student.recipe.epochs
        parts.append(epochs * max((s for s in shared if s is not None), default=0.0))
    return None if any(p is None for p in parts) else sum(p for p in parts if p is not None)


def _place(environment: Any) -> tuple[Any, ...]:
    return tuple(environment.get(name) for name in ("device", "device_name", "threads"))


def _like(plan: Plan, member: PlannedMember, records: list[Record]) -> Any:
    def settings(record: Record) -> tuple[Any, ...]:
        s = record.settings
        return (
            s["data"]["fingerprint"],
            s["student"]["name"],
            s["batch_size"],
            s["precision"],
            s["method"]["distiller"],
            s["method"]["source"],
        )

    wanted = (
        plan.data.fingerprint, plan.benchmark.student.network, plan.benchmark.student.recipe.batch_size,
        plan.computed, member.method.distiller, member.method.source,
    )  # fmt: skip
    return next((r.timing for r in reversed(records) if settings(r) == wanted), None)


def _artifact_seconds(plan: Plan, artifact: ArtifactPlan, here: tuple[Any, ...]) -> float | None:
    if artifact.origin != "trained":
        return 0.0
    for path in sorted((plan.work_dir / "artifacts").glob(f"{artifact.name}-*/settings.json")):
        try:
            notes = json.loads(path.read_text())
            same = all(
                notes["made_of"][n] == artifact.settings[n]
                for n in ("network", "options", "data", "precision")
            )
            seconds = notes["timing"]["seconds_per_epoch"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        batches = notes["made_of"]["recipe"]["batch_size"] == artifact.section.recipe.batch_size
        if same and batches and seconds is not None and _place(notes["environment"]) == here:
            return float(seconds) * artifact.section.recipe.epochs
    return None
