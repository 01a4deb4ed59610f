"""Tables and plots of records, made of records alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from .numbers import Record, costs, spread

# One colour for each loop, one dash for each precision; the limit is what all others are looked at against.
COLOURS = {
    "limit": "black",
    "kdzoo, warm bank": "tab:green",
    "kdzoo": "tab:blue",
    "torchdistill, careful": "tab:orange",
    "torchdistill, defaults": "tab:red",
    "plain loop": "tab:purple",
}


def table(record: Record, form: str = "simple") -> str:
    """Write all that a record says, as text or Markdown.

    Args:
        record: of a measurement.
        form: a format of tabulate, such as "simple" or "github".
    """
    counts, head = record["counts"], f"{record['pair']['name']}: {' -> '.join(record['pair']['networks'])}"
    machine = record["machine"]
    device = f"{machine['device_name']}, {_threads(machine)}, torch {machine['versions']['torch']}"
    about = f"{head}, batch {record['batch']}, {record['rounds']} rounds; {device}"
    rows = [
        [label, *(_seconds(by_count.get(n)) for n in counts)] for label, by_count in costs(record).items()
    ]
    clock = "" if record["clock"] == "wall" else " of the process's own work"
    titles = [
        f"seconds a step{clock}, median [quartiles]",
        *(f"{n} method{'s' if n > 1 else ''}" for n in counts),
    ]
    parts = [about, tabulate(rows, titles, tablefmt=form, disable_numparse=True)]
    parts.append(_ratio_table(record, counts, form))
    parts += _small_tables(record, form)
    parts += [f"Left out: {line}." for line in record["left_out"]]
    return "\n\n".join(part for part in parts if part)


def _threads(machine: dict[str, Any]) -> str:
    return "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"


def _seconds(values: Sequence[float] | None) -> str:
    if values is None:
        return "-"
    found = spread(values)
    return f"{found['median']:.3g} [{found['low']:.3g}, {found['high']:.3g}]"


def _told(found: dict[str, float] | None) -> str:
    return "-" if found is None else f"{found['ratio']:.3g} [{found['low']:.3g}, {found['high']:.3g}]"


def _ratio_table(record: Record, counts: Sequence[int], form: str) -> str:
    ratios = record["ratios"]
    rows = [[f"{k} / limit", v] for k, v in ratios["over the limit"].items()]
    rows += [[k, v] for k, v in ratios["of others over kdzoo"].items()]
    rows += [[f"{k}, loading not counted", v] for k, v in ratios["without loading"].items()]
    shown = [[name, *(_told(by_count.get(str(n))) for n in counts)] for name, by_count in rows]
    titles = ["ratio of medians [quartiles of the rounds' ratios]", *map(str, counts)]
    return tabulate(shown, titles, tablefmt=form, disable_numparse=True) if shown else ""


def _small_tables(record: Record, form: str) -> list[str]:
    ratios, made = record["ratios"], []
    rows = [[name, _told(r)] for part in ("alone", "apart") for name, r in ratios[part].items()]
    if rows:
        made.append(tabulate(rows, ["one by one", "ratio"], tablefmt=form, disable_numparse=True))
    steps = record["bare"]
    if steps:
        rows = [[name, f"{1000 * s['median']:.1f}"] for name, s in steps.items()]
        made.append(tabulate(rows, ["part of the limit", "ms"], tablefmt=form, disable_numparse=True))
    fits = [
        [
            f"a cohort's {what}: a + sum of its members",
            _amount(what, fit["constant"]),
            f"{fit['residual']:.1%}",
        ]
        for what, fit in ratios["adds up"].items()
    ]
    if fits:
        titles = ["form", "a", "largest residual"]
        made.append(tabulate(fits, titles, tablefmt=form, disable_numparse=True))
    if record.get("losses"):
        measured = record["losses"]["losses"]
        titles = list(next(iter(measured.values())))
        rows = [[name, *(str(found[t]) for t in titles)] for name, found in measured.items()]
        head = f"loss alone, N = {record['losses']['samples']}"
        made.append(tabulate(rows, [head, *titles], tablefmt=form, disable_numparse=True))
    for precision, kept in record["bytes a bank keeps of an image"].items():
        each = ", ".join(f"{name} {size / 1000:.3g}" for name, size in kept.items())
        made.append(f"The teacher bank in {precision} keeps of each image, in kB: {each}.")
    return made


def _amount(what: str, constant: float) -> str:
    return f"{constant / 2**20:.0f} MiB" if what == "memory" else f"{constant:.3g} s"


def plot(record: Record, path: Path) -> None:
    """Draw the time of a step against the number of methods, the limit among the lines.

    Args:
        record: of a measurement.
        path: a PNG to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for label, by_count in sorted(costs(record).items(), key=lambda item: -np.median(item[1][max(item[1])])):
        who, _, precision = label.rpartition(", ")
        counts = sorted(by_count)
        found = [spread(by_count[n]) for n in counts]
        style: dict[str, Any] = {"linestyle": "-" if precision == "float32" else "--"}
        if who == "limit":
            style |= {"linewidth": 3, "alpha": 0.45, "zorder": 1}
        else:
            style |= {"marker": "o", "markersize": 4}
        axes.plot(counts, [f["median"] for f in found], color=COLOURS.get(who), label=label, **style)
        low, high = [f["low"] for f in found], [f["high"] for f in found]
        axes.fill_between(counts, low, high, color=COLOURS.get(who), alpha=0.15, linewidth=0)
    axes.set_yscale("log")
    axes.set_xticks(record["counts"])
    axes.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    bottom, top = axes.get_ylim()
    ticks = [b * 10.0**e for e in range(-4, 4) for b in (1, 2, 5)]
    axes.set_yticks([t for t in ticks if bottom <= t <= top])
    axes.set_xlabel("number of methods of Table 8, always in the same order")
    axes.set_ylabel("seconds for one training step of all of them")
    machine = record["machine"]
    axes.set_title(
        f"{' -> '.join(record['pair']['networks'])} on {record['pair']['name']}, batch {record['batch']}\n"
        f"{machine['device_name']}, {_threads(machine)}; medians of {record['rounds']} rounds, "
        f"quartiles shaded{'' if record['clock'] == 'wall' else '; CPU time of the process'}",
        fontsize=10,
    )
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
