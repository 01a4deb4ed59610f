"""What a record of samples says: costs by number of methods, ratios, and how well a cohort's cost adds up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Record = dict[str, Any]
Costs = dict[str, dict[int, list[float]]]
OWN = ("limit", "kdzoo, warm bank", "kdzoo")
LIMIT, KDZOO, BANK = "limit, float32", "kdzoo, float32", "kdzoo, warm bank, float32"


def spread(values: Sequence[float]) -> dict[str, float]:
    """Give the median of samples and the quartiles around it.

    Args:
        values: one or more.
    """
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return {"median": round(median, 6), "low": round(low, 6), "high": round(high, 6)}


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Compare samples of the same rounds.

    Args:
        above: of every round.
        below: of the same rounds.

    Returns:
        The ratio of the medians, and the quartiles of the rounds' own ratios.
    """
    rounds = np.divide(above, below)
    low, high = np.quantile(rounds, [0.25, 0.75]).tolist()
    return {
        "ratio": round(float(np.median(above) / np.median(below)), 4),
        "low": round(low, 4),
        "high": round(high, 4),
    }


def sample_of(record: Record, who: str, what: str, precision: str) -> dict[str, Any] | None:
    """Find a contestant's samples; None if it did not take part.

    Args:
        record: of a measurement.
        who: whose loop.
        what: its methods.
        precision: "float32", "auto" or "bf16".
    """
    wanted = (who, what, precision)
    return next((s for s in record["samples"] if (s["who"], s["what"], s["precision"]) == wanted), None)


def costs(record: Record, *, loading: bool = True) -> Costs:
    """Give the seconds of a step of all methods, of every round, by contestant and number of methods.

    Who trains one method after another is charged the sum; a method that it lacks costs as its kd.

    Args:
        record: of a measurement.
        loading: whether the time of reading pictures counts, where it stands apart.
    """
    found: Costs = {}
    for sample in record["samples"]:
        who, label = sample["who"], f"{sample['who']}, {sample['precision']}"
        if who in OWN:
            found.setdefault(label, {})[int(sample["what"])] = sample["seconds"]
        elif sample["what"] == "kd":
            single = {
                s["what"]: np.array(s["parts"]["training"] if not loading else s["seconds"])
                for s in record["samples"]
                if (s["who"], s["precision"]) == (who, sample["precision"])
            }
            for count in record["counts"]:
                charged = [single.get(method, single["kd"]) for method in record["methods"][:count]]
                found.setdefault(label, {})[count] = np.sum(charged, axis=0).tolist()
    return found


def ratios(record: Record) -> dict[str, Any]:
    """Say what the samples mean.

    Args:
        record: of a measurement.
    """
    told: dict[str, Any] = {"over the limit": {}, "of others over kdzoo": {}, "without loading": {}}
    for name, loading in (("of others over kdzoo", True), ("without loading", False)):
        by_label = costs(record, loading=loading)
        own = [label for label in by_label if label.startswith("kdzoo")]
        for label, by_count in by_label.items():
            if not label.startswith(("kdzoo", "limit")):
                told[name] |= {f"{label} / {mine}": _ratios(by_count, by_label[mine]) for mine in own}
    by_label = costs(record)
    for label, by_count in by_label.items():
        precision = label.rpartition(", ")[2]
        limit = by_label.get(f"limit, {precision}")
        if label.startswith("kdzoo, " + precision) and limit:
            told["over the limit"][label] = _ratios(by_count, limit)
    told["alone"] = _alone(record)
    told["apart"] = _apart(record)
    told["adds up"] = adds_up(record)
    return told


def _ratios(above: dict[int, list[float]], below: dict[int, list[float]]) -> dict[str, Any]:
    return {str(n): ratio(seconds, below[n]) for n, seconds in above.items() if n in below}


def _alone(record: Record) -> dict[str, Any]:
    scratch = sample_of(record, "kdzoo, alone", "scratch", "float32")
    found = {
        what: sample_of(record, "kdzoo, alone", what, "float32") for what in ("reffakd", "kd, warm bank")
    }
    return {
        f"{what} / scratch": ratio(sample["seconds"], scratch["seconds"])
        for what, sample in found.items()
        if sample and scratch
    }


def bare_steps(record: Record) -> dict[str, list[float]]:
    """Give the seconds of the limit's parts: the teacher's pass and each method's step.

    Args:
        record: of a measurement.
    """
    sample = sample_of(record, "limit", str(max(record["counts"])), "float32")
    return {} if sample is None else sample["parts"]


def _apart(record: Record) -> dict[str, Any]:
    """Tell what sharing, the allocator, the teacher's preparation and precision bring, one by one."""
    most = str(max(record["counts"]))
    limit = sample_of(record, "limit", most, "float32")
    if limit is None:
        return {}
    told = {}
    parts = bare_steps(record)
    if "teacher" in parts:
        teacher = np.array(parts["teacher"])
        apart = np.array(limit["seconds"]) + (int(most) - 1) * teacher
        told[f"sharing: {most} teacher passes for one"] = ratio(apart.tolist(), limit["seconds"])
    if as_it_comes := sample_of(record, "limit, allocator as it comes", most, "float32"):
        told["allocator's thresholds"] = ratio(as_it_comes["seconds"], limit["seconds"])
    if (plain := sample_of(record, "teacher as it comes", "teacher", "float32")) and "teacher" in parts:
        told["teacher's folding and layout"] = ratio(plain["seconds"], parts["teacher"])
    if half := sample_of(record, "limit", most, "auto"):
        told["precision auto"] = ratio(limit["seconds"], half["seconds"])
    for precision in ("float32", "auto"):
        without = sample_of(record, "kdzoo, no CUDA graphs", most, precision)
        if without and (own := sample_of(record, "kdzoo", most, precision)):
            told[f"CUDA graphs, {precision}"] = ratio(without["seconds"], own["seconds"])
    return told


def adds_up(record: Record) -> dict[str, Any]:
    """Fit the cost of cohorts by a constant and the sum of their members' own.

    Args:
        record: of a measurement.

    Returns:
        For time (seconds, against bare steps) and memory (bytes, against weights, momentum and buffers): the
        constant, and the largest residual as a share of the cost.
    """
    told: dict[str, Any] = {}
    bare = {name: float(np.median(seconds)) for name, seconds in bare_steps(record).items()}
    times = {n: float(np.median(s)) for n, s in costs(record).get(KDZOO, {}).items()}
    if bare and len(times) > 1:
        told["time"] = _fit(times, bare, record["methods"])
    memory = record.get("memory")
    if memory and len(memory["peak"]) > 1:
        told["memory"] = _fit(
            {int(n): b for n, b in memory["peak"].items()}, memory["members"], memory["order"]
        )
    return told


def _fit(found: dict[int, float], members: dict[str, float], methods: Sequence[str]) -> dict[str, float]:
    sums = {count: sum(members[m] for m in methods[:count]) for count in found}
    constant = float(np.mean([cost - sums[count] for count, cost in found.items()]))
    worst = max(abs(cost - sums[count] - constant) / cost for count, cost in found.items())
    return {"constant": round(constant, 4), "residual": round(worst, 4)}
