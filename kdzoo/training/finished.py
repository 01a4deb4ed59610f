"""What a finished member leaves: the student's weights, how they are used, and the record."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import Any, get_args

import safetensors.torch

from kdzoo.data.pictures import Fit
from kdzoo.distillers import Distiller
from kdzoo.files import write_atomic
from kdzoo.models import count_parameters
from kdzoo.models.base import flops
from kdzoo.results.record import SCHEMA, Record, accuracy_of
from kdzoo.results.sheet import WEIGHTS, Sheet, write_sheet
from kdzoo.results.store import write_record
from kdzoo.training import checkpoint
from kdzoo.training.artifacts import plain_recipe
from kdzoo.training.cohort import Cohort
from kdzoo.training.member import Member
from kdzoo.training.plan import Plan, PlannedMember
from kdzoo.training.runtime import environment


def write_finished(
    plan: Plan, planned: PlannedMember, member: Member, cohort: Cohort, *, artifacts: Mapping[str, Any],
    command: str,
) -> None:  # fmt: skip
    """Write a member's student and, last, its record; from then on the member is done.

    Args:
        plan: of the benchmark.
        planned: the member as it was planned.
        member: trained, or given up as diverged.
        cohort: that it was trained in.
        artifacts: what records say of the artifacts that it used, by name.
        command: that a user would type again.

    Raises:
        StorageError: something could not be written.
    """
    distiller = member.distiller
    deployed = (member.network if distiller is None else distiller.deployed(member.network)).eval()
    weights = {k: v.detach().cpu().contiguous().clone() for k, v in deployed.state_dict().items()}
    content = safetensors.torch.save(weights)
    # Counting traces a network, which a compiled one refuses; a copy is not compiled.
    traced = copy.deepcopy(deployed) if plan.compiled else deployed
    write_atomic(planned.folder / WEIGHTS, content)
    write_sheet(planned.folder, sheet_of(plan, planned.key, hashlib.sha256(content).hexdigest()))
    record = Record(
        schema=SCHEMA,
        key=planned.key,
        benchmark=plan.benchmark.name,
        protocol={"name": plan.protocol["name"], "hash": plan.protocol["hash"]},
        seed=planned.seed,
        method=planned.method.name,
        status="diverged" if member.status == "diverged" else "done",
        settings=_settings(plan, planned, distiller),
        artifacts=artifacts,
        epochs=member.epochs,
        accuracy=accuracy_of(member.epochs),
        parameters=count_parameters(deployed),
        flops=flops(traced, plan.data.channels, plan.size),
        notes=_notes(plan, planned),
        timing=_timing(plan, member, cohort),
        environment={
            **environment(plan.device), "command": command, "work_dir": str(plan.work_dir),
            "data_root": None if plan.data_root is None else str(plan.data_root),
            "data_options": dict(plan.benchmark.data_options),
        },
    )  # fmt: skip
    write_record(planned.folder, record)
    checkpoint.discard(planned.folder)


def sheet_of(plan: Plan, record: str, weights: str) -> Sheet:
    """Describe how a student of the plan is to be used.

    Args:
        plan: of the benchmark.
        record: key of the student's member.
        weights: their SHA-256.
    """
    section = plan.benchmark.student
    mean, std = plan.statistics
    options = plan.benchmark.data_options
    # A data set from outside may mean something of its own by "fit".
    fit = options.get("fit")
    return Sheet(
        network={"type": section.network, "options": dict(section.options)},
        classes=plan.data.classes,
        channels=plan.data.channels,
        size=plan.size,
        mean=mean,
        std=std,
        precision=plan.precision,
        pictures={
            "fit": fit if fit in get_args(Fit) else "crop",
            "short_side": plan.short_side,
            "size": plan.data.size,
        },
        data={"type": plan.benchmark.data, "options": dict(options)} if plan.reloadable else None,
        record=record,
        weights=weights,
    )


def _notes(plan: Plan, planned: PlannedMember) -> list[str]:
    """Say what a reader of the numbers must know beside the settings."""
    teacher = planned.artifacts.get("teacher")
    if teacher is None or plan.artifacts[teacher].given is None or not plan.data.validation:
        return []
    return ["The teacher is a checkpoint of the user's own and may have seen the validation images."]


def _settings(plan: Plan, planned: PlannedMember, distiller: Distiller | None) -> dict[str, Any]:
    data = plan.data
    recipe, student = plain_recipe(plan.benchmark.student), dict(plan.protocol["student"])
    mean, std = plan.statistics
    paired = [pair.described() for pair in distiller.pairs] if distiller is not None else []
    seen = plan.protocol["data"]
    brought = {"plug_in": seen["plug_in"]} if "plug_in" in seen else {}
    return {
        "data": {
            "name": data.name, "fingerprint": data.fingerprint, "classes": len(data.classes),
            "train": len(data.train), "validation": len(data.validation or ()), "test": len(data.test),
            "mean": list(mean), "std": list(std), "warnings": list(data.warnings), **brought,
        },
        "student": {"name": student.pop("network"), **student},
        "epochs": recipe["epochs"],
        "batch_size": recipe["batch_size"],
        "optimizer": recipe["optimizer"],
        "param_scheduler": recipe["param_scheduler"],
        "views": seen["views"],
        "precision": plan.computed,
        "val_fraction": plan.benchmark.val_fraction,
        "method": {**planned.settings, **({"pairs": paired} if paired else {})},
    }  # fmt: skip


def _timing(plan: Plan, member: Member, cohort: Cohort) -> dict[str, Any]:
    """Give seconds: on a CPU what was measured around the member's own work, on a GPU its share of the
    cohort's time in this start; None where this start finished no epoch."""
    members, epochs = len(cohort.members), cohort.epochs_run
    measured = plan.device.type == "cpu"
    share = cohort.wall / epochs / members if epochs else None
    graphed = member.graphed
    repeated = {} if graphed is None else {"graph_steps": graphed.repeated, "no_graph": graphed.reason}
    return {
        "seconds_per_epoch": member.seconds / len(member.epochs) if measured else share,
        "shared_seconds_per_epoch": cohort.seconds / epochs if epochs else None,
        "basis": "measured around the member" if measured else "share of the cohort's time",
        "members": members,
        "steps": cohort.steps_run,
        "teacher_passes": cohort.teacher_passes,
        **repeated,
    }
