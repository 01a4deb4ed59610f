"""What a step of each method costs beside one of scratch, as it was measured, shipped with kdzoo."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("costs.json")


def cost_of(method: str) -> str:
    """Say what a distiller costs: time and memory of a step; nothing of what was not measured.

    Args:
        method: a registered distiller's name.

    Returns:
        Its step's time as a multiple of scratch's, and its peak memory beyond scratch's (the teacher
        included, which a cohort has once) in MiB, of one pair of networks on one machine.
    """
    known = _measured()
    if method not in known["methods"]:
        return ""
    times, memory = known["methods"][method]
    teacher, student = known["networks"]
    where = f"{teacher} -> {student}, batch {known['batch']}, {known['device']}"
    return f"{times:.1f} of scratch's step, and {memory} MiB more ({where})"


def shipped(record: dict[str, Any]) -> dict[str, Any]:
    """Take what is shipped out of a record of `benchmarks.steps.methods`.

    Args:
        record: seconds and MiB by method, and where they were measured.
    """
    seconds, memory = record["seconds"], record["MiB"]
    return {
        "networks": record["networks"],
        "batch": record["batch"],
        "device": record["machine"]["device_name"],
        "methods": {
            name: [round(seconds[name] / seconds["scratch"], 2), memory[name] - memory["scratch"]]
            for name in memory
        },
    }


@functools.cache
def _measured() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(PATH.read_text())
    return content
