"""Draw accuracy against training cost from records alone: a point for each method, all of them labelled.

python -m benchmarks.figure benchmarks/results/fashion_mnist --protocol lenet5-e20 --output fashion_mnist.png
"""

from __future__ import annotations

import argparse
import statistics
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdzoo.checks import KdzooError, UsageError
from kdzoo.results.groups import Group, Row, group
from kdzoo.results.record import Record
from kdzoo.results.store import read_records
from kdzoo.results.words import counted

# In percent below the middle of all: from there on a method is drawn at the lower edge, for the others' sake.
FAR_BELOW = 20.0
ALONE, TAUGHT, FREE = "the student alone", "with a teacher", "without a teacher"
KINDS = {ALONE: "black", TAUGHT: "tab:blue", FREE: "tab:orange"}


def parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    whole = argparse.ArgumentParser(
        prog="python -m benchmarks.figure", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    whole.add_argument("records", type=Path, nargs="+", help="records, or folders of them, of one protocol")
    whole.add_argument("--protocol", default="", help="which of several, as lenet5-e20: whole words")
    whole.add_argument("--output", type=Path, required=True, help="a PNG")
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw.

    Args:
        arguments: of the command line; None takes the process's.
    """
    options = parser().parse_args(arguments)
    try:
        found = chosen(group(read_records(options.records)), options.protocol)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        draw(found, options.output)
    except KdzooError as fault:
        print(fault, file=sys.stderr)
        return 2
    return 0


def chosen(groups: Sequence[Group], protocol: str) -> Group:
    """Choose the group that is drawn.

    Args:
        groups: of all records.
        protocol: the first words of its protocol, between hyphens; empty where there is one group alone.
    """
    words = protocol.split("-") if protocol else []
    found = [one for one in groups if one.protocol.split("-")[: len(words)] == words]
    if len(found) == 1:
        return found[0]
    told = "; ".join(
        f"{one.benchmark}, protocol {one.protocol}"
        + "".join(f", teacher {t['key'][:8]}" for t in one.teachers)
        for one in found or groups
    )
    if not groups:
        raise UsageError("figure: there are no records. Name files or folders of them.")
    if not found:
        raise UsageError(f"figure: no protocol begins with {protocol}; there are: {told}.")
    raise UsageError(
        f"figure: records must be of one protocol and one teacher, got {told}. "
        f"Choose a protocol by --protocol, or name the files of one."
    )


def draw(found: Group, path: Path) -> None:
    """Draw a group.

    Args:
        found: records of one protocol and one teacher.
        path: a PNG to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5.5), layout="constrained")
    points = [(row, *at) for row in found.rows if (at := _place(row)) is not None]
    if not points:
        raise UsageError("figure: no record has both an accuracy and seconds per epoch.")
    if any("share" in str(record.timing.get("basis")) for record in found.records):
        raise UsageError(
            "figure: seconds of a GPU are each member's share of its cohort's, and say nothing of a method. "
            "Take records of a CPU."
        )
    middle = statistics.median(top1 for *_, top1, _ in points)
    near = [point for point in points if point[2] > middle - FAR_BELOW]
    floor = min(top1 - (spread or 0.0) for *_, top1, spread in near)
    room = max(0.08 * (max(top1 for *_, top1, _ in near) - floor), 0.1)
    places = []
    for row, seconds, top1, spread in points:
        if top1 > middle - FAR_BELOW:
            places.append((_named(row), seconds, top1))
            axes.errorbar(
                seconds, top1, yerr=spread, fmt="o", color=KINDS[_kind(row)], capsize=3, markersize=5
            )
        else:
            places.append((f"{_named(row)}: {top1:.2f}", seconds, floor - 2 * room))
            axes.plot(*places[-1][1:], "v", color=KINDS[_kind(row)], markersize=6)
    if len(near) < len(points):
        axes.set_ylim(bottom=floor - 3 * room)
        axes.plot([], [], "v", color="gray", label="far below: its accuracy is beside it")
    for row, _, top1, _ in points:
        if row.method == "scratch":
            axes.axhline(top1, color="black", linewidth=0.8, linestyle=":", zorder=0)
    low, high = min(p[1] for p in points), max(p[1] for p in points)
    margin = 0.12 * (high - low or high)
    axes.set_xlim(low - margin, high + 2.5 * margin)
    lost = ", ".join(row.name for row in found.rows if not row.done)
    gone = textwrap.fill(f"not drawn, since it diverged: {lost}", 100) if lost else ""
    label = "seconds an epoch that the method adds to a cohort, its training and evaluation"
    axes.set_xlabel(f"{label}\n{gone}" if gone else label)
    axes.set_ylabel("top-1 after the last epoch, %")
    axes.set_title(_title(found), fontsize=10)
    axes.grid(alpha=0.3)
    for kind, colour in KINDS.items():
        axes.plot([], [], "o", color=colour, label=kind)
    axes.legend(fontsize=9, loc="best")
    _label(figure, axes, places)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _named(row: Row) -> str:
    """Give a method's name; where members diverged, how many are left to be drawn."""
    return f"{row.name} ({len(row.done)} of {len(row.records)} seeds)" if row.diverged else row.name


def _kind(row: Row) -> str:
    taught = any(name.startswith("teacher") for record in row.done for name in record.artifacts)
    return ALONE if row.method == "scratch" else TAUGHT if taught else FREE


def _place(row: Row) -> tuple[float, float, float | None] | None:
    top1, seconds = row.over_seeds("last"), row.over_seeds("seconds_per_epoch")
    return None if top1.mean is None or seconds.mean is None else (seconds.mean, top1.mean, top1.std)


def _title(found: Group) -> str:
    settings = found.settings
    seeds = sorted({record.seed for record in found.records})
    # Who diverged early has epochs alone in which a bank was filled.
    done = [record for row in found.rows for record in row.done]
    shared = [r.timing.get("shared_seconds_per_epoch") for r in done]
    most = max((s for s in shared if s is not None), default=None)
    cost = "" if most is None else f"images and teacher cost {most:.3g} s an epoch once for all; "
    pair = " -> ".join([*(t["network"] for t in found.teachers), settings["student"]["name"]])
    machines = sorted({_machine(record) for record in found.records})
    return (
        f"{found.benchmark}: {pair}, {settings['epochs']} epochs, {counted(len(seeds), 'seeds')}\n"
        f"{cost}{'; '.join(machines)}{'' if len(machines) == 1 else ': seconds are of several machines'}"
    )


def _machine(record: Record) -> str:
    here = record.environment
    return f"{here.get('device_name', 'unknown')}, {counted(int(here.get('threads', 1)), 'threads')}"


def _label(figure: Any, axes: Any, points: Sequence[tuple[str, float, float]]) -> None:
    """Write every name beside its point, moved up or down as far as no two of them touch."""
    from matplotlib.text import Text

    figure.canvas.draw()
    taken: list[Any] = []
    for name, x, y in sorted(points, key=lambda point: -point[2]):
        for step in range(200):
            down = (step + 1) // 2 * (1 if step % 2 else -1) * 6
            text = axes.annotate(
                name, (x, y), xytext=(9, down - 3), textcoords="offset points", fontsize=9, zorder=3,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
                arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "gray"} if abs(down) > 6 else None,
            )  # fmt: skip
            # Of the text alone: an annotation's own extent has its line, too.
            text.update_positions(figure.canvas.get_renderer())
            box = Text.get_window_extent(text).expanded(1.02, 1.05)
            # A name that reaches over the border must not press the axes together.
            text.set_in_layout(False)
            # Whoever finds no place at all is written over others rather than left out.
            if step == 199 or not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


if __name__ == "__main__":
    sys.exit(main())
