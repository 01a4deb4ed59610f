"""Leaderboards in the layout of the paper's Table 8, for pages, CSV, terminals and Python.

Every function gives the same bytes for the same records, in whatever order they come.
"""

from __future__ import annotations

import csv
import io
import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from tabulate import tabulate

from kdzoo.methods import TABLE8
from kdzoo.results.groups import QUANTITIES, SMALL_TEST_SET, Group, Row, group, repeated_views, teachers
from kdzoo.results.precisions import compare_precisions
from kdzoo.results.published import Published, published
from kdzoo.results.record import Record
from kdzoo.results.statistics import Summary
from kdzoo.results.words import ascii_only, counted, crop, github_table, listed, markdown, spreadsheet, words

__all__ = ["TABLE8", "leaderboard", "leaderboard_csv", "plain_rows", "terminal_table"]

SELECTED = "best on test (selected on the test set)"
TERMINAL_WIDTH = 100
_LONGEST_SETTINGS = 600  # characters of an artifact's settings on a page; the record has them all
_DIGITS = {"nll": 4, "parameters": 0, "flops": 0}


def leaderboard(records: Iterable[Record], title: str = "Leaderboard") -> str:
    """Write a markdown page: for each protocol and teacher what was run, Table 8's row, and details; then,
    where protocols differ in their precision alone, what that does.

    Args:
        records: any records; those of different protocols never share a table.
        title: heading of the page.

    Raises:
        UsageError: two records tell the same member differently.
    """
    parts = [f"# {markdown(title)}"]
    groups = group(records)
    for found in groups:
        parts += [f"## {markdown(_name(found))}", _protocol(found)]
        parts += [_table8(found), _details(found), *_comparisons(found), _reading(found)]
    parts += [section for compared in compare_precisions(groups) for section in compared.sections()]
    if len(parts) == 1:
        parts.append("There are no records yet.")
    return "\n\n".join(parts) + "\n"


def _name(found: Group) -> str:
    pair = " -> ".join(name for name in (_teacher_name(found), found.settings["student"]["name"]) if name)
    taught = "".join(f", teacher {artifact['key'][:8]}" for artifact in found.teachers)
    taught += "" if found.digests == "own" else f", its answers in {found.digests}"
    return f"{found.benchmark}: {pair} (protocol {found.protocol}{taught}{repeated_views(found)})"


def _teacher_name(found: Group) -> str:
    return " + ".join(artifact["network"] for artifact in found.teachers)


def _protocol(found: Group) -> str:
    """State the protocol in words, a line each."""
    settings, data = found.settings, found.settings["data"]
    seeds = ", ".join(str(seed) for seed in sorted({record.seed for record in found.records}))
    fraction = settings["val_fraction"]
    warnings = {text for record in found.records for text in record.settings["data"].get("warnings", [])}
    lines = [
        f"Data: {data['name']}, {data['classes']} classes; {data['train']:,} training, "
        f"{data['validation']:,} validation and {data['test']:,} test images",
        f"Student: {words(settings['student'])}",
        f"Schedule: {counted(settings['epochs'], 'epochs')}, batch size {settings['batch_size']}",
        f"Optimizer: {words(settings['optimizer'])}; learning rate: {words(settings['param_scheduler'])}",
        f"Views: {words(settings['views'])}",
        f"Precision: {settings['precision']}",
        "Validation split: " + (f"{fraction:g} of the training images" if fraction else "none"),
        f"Seeds: {seeds}",
        *(f"Teacher: {_artifact(found, artifact)}" for artifact in found.teachers),
        *([] if found.digests == "own" else [f"The teacher's answers are rounded to {found.digests}"]),
        *_other_artifacts(found),
        *(f"Data warning: {warning}" for warning in sorted(warnings)),
        *_notes(found),
    ]
    return "\n".join(f"- {markdown(line)}" for line in lines)


def _artifact(found: Group, artifact: Mapping[str, Any]) -> str:
    """Say of an artifact what it is, how good it is, and where its settings differ from the protocol's."""
    made = {
        "trained": f"trained with seed {artifact['seed']}",
        "checkpoint": "user's checkpoint",
        "pretrained": "pretrained weights, not trained further",
    }[artifact["origin"]]
    score = [_score(name, value) for name, value in artifact["score"].items() if value is not None]
    # A protocol's precision also says whether its students were compiled.
    precision = found.settings["precision"].partition(",")[0]
    shared = {**found.settings, "seed": artifact["seed"], "precision": precision}
    own = {name: value for name, value in artifact["settings"].items() if shared.get(name) != value}
    described = "; ".join([artifact["network"], made, *score, f"key {artifact['key'][:8]}"])
    return described + (f"; {crop(listed(own), _LONGEST_SETTINGS)}" if own else "")


def _score(name: str, value: float) -> str:
    forms = {"top1": "top-1 {:.2f} %", "top5": "top-5 {:.2f} %", "nll": "NLL {:.4f}", "ece": "ECE {:.2f} %"}
    return forms[name].format(value) if name in forms else f"{name} {value:.6g}"


def _other_artifacts(found: Group) -> list[str]:
    used: dict[tuple[str, str], tuple[Mapping[str, Any], list[str]]] = {}
    for row in found.rows:
        for record in row.records:
            for name, artifact in record.artifacts.items():
                if not name.startswith("teacher"):
                    users = used.setdefault((name, artifact["key"]), (artifact, []))[1]
                    users += [row.name] if row.name not in users else []
    return [
        f"{name[:1].upper()}{name[1:]}, for {', '.join(users)}: {_artifact(found, artifact)}"
        for (name, _), (artifact, users) in sorted(used.items())
    ]


def _notes(found: Group) -> list[str]:
    notes: dict[str, list[str]] = {}
    for row in found.rows:
        for note in sorted({note for record in row.records for note in record.notes}):
            notes.setdefault(note, []).append(row.name)
    everyone = len(found.rows)
    return [
        f"Note: {note}" if len(names) == everyone else f"Note for {', '.join(names)}: {note}"
        for note, names in sorted(notes.items())
    ]


def _table8(found: Group) -> str:
    """Lay out last-epoch accuracies as Table 8 does: teacher, student, methods, in one row; what others
    published of this pair has a row of its own."""
    # Headers, our accuracies, and under which name others may have published one.
    cells = [("benchmark", markdown(found.benchmark), "")]
    for artifact in found.teachers:
        accuracy = _number(artifact["score"].get("top1"), "last")
        cells.append((f"teacher {markdown(artifact['network'])}", accuracy, "teacher"))
    for row in found.scratch:
        label = row.name.replace("scratch", f"student {found.settings['student']['name']} (scratch)")
        cells.append((markdown(label), row.accuracy(), row.name))
    for row in found.methods:
        accuracy = row.accuracy()
        shown = f"**{accuracy}**" if row is found.ahead else accuracy
        cells.append((markdown(row.name), shown, row.name))
    headers, ours, names = zip(*cells, strict=True)
    others = [
        [f"published: {their.table}", *(_number(their.accuracy.get(name), "last") for name in names[1:])]
        for their in _published(found)
    ]
    return github_table(list(headers), [list(ours), *others])


def _published(found: Group) -> tuple[Published, ...]:
    teacher = _teacher_name(found) or None
    settings = found.settings
    return published(found.benchmark, settings["student"]["name"], teacher, settings["data"])


def _number(value: float | None, quantity: str) -> str:
    return Summary(1, value, None).format(_DIGITS.get(quantity, 2))


def _details(found: Group) -> str:
    """List everything else, a row a method."""
    columns = {
        "top-1, last epoch": "last",
        "top-5": "top5",
        SELECTED: "best_on_test",
        "validation-selected": "validation_selected",
        "NLL": "nll",
        "ECE": "ece",
        "agreement with the teacher": "agreement",
        "parameters": "parameters",
        "FLOPs": "flops",
        "s/epoch (on the machine that ran)": "seconds_per_epoch",
    }
    optional = ("validation_selected", "agreement", "seconds_per_epoch")
    shown = {
        header: quantity
        for header, quantity in columns.items()
        if quantity not in optional or any(row.over_seeds(quantity).count for row in found.rows)
    }
    lines = []
    for artifact in found.teachers:
        score = {**artifact["score"], "last": artifact["score"].get("top1")}
        values = [_number(score.get(quantity), quantity) for quantity in shown.values()]
        lines.append([f"teacher {markdown(artifact['network'])}", "-", *values, artifact["origin"]])
    for row in found.rows:
        seeds = ", ".join(str(record.seed) for record in row.records)
        values = [_detail(row, quantity) for quantity in shown.values()]
        lines.append([markdown(row.name), seeds, *values, row.status()])
    return github_table(["method", "seeds", *shown, "status"], lines)


def _detail(row: Row, quantity: str) -> str:
    summary = row.over_seeds(quantity)
    if quantity == "last":
        return row.accuracy()
    if quantity in ("parameters", "flops") and summary.mean is not None:
        return f"{summary.mean:,.0f}"
    return summary.format(_DIGITS.get(quantity, 2), spread=quantity != "seconds_per_epoch").split(" (")[0]


def _comparisons(found: Group) -> list[str]:
    """Compare every method with scratch and with kd, seed by seed, where seeds and test images allow it."""
    if found.test_images < SMALL_TEST_SET:
        return []
    bare = found.scratch[0] if len(found.scratch) == 1 else None
    plain = [row for row in found.rows if row.method == "kd"]
    references = {
        name: row
        for name, row in (("scratch", bare), ("kd", plain[0] if len(plain) == 1 else None))
        if row is not None and len(row.done) > 1
    }
    headers = ["method"]
    for name in references:
        headers += [f"points over {name}, paired: mean [95 % interval] (seeds)", f"than {name}"]
    lines = []
    for row in found.rows:
        # Where a member diverged, those that are left would be a choice.
        compared = [
            None if row is other or row.diverged or other.diverged else found.compare(row, other)
            for other in references.values()
        ]
        if any(compared):
            cells = [[str(c), c.verdict] if c else ["-", "-"] for c in compared]
            lines.append([markdown(row.name), *(cell for pair in cells for cell in pair)])
    return [github_table(headers, lines)] if lines else []


def _reading(found: Group) -> str:
    """Say under the tables how far they carry."""
    lines = [
        *_small_test_set(found),
        "Top-1, top-5, NLL, ECE and agreement are of the last epoch on the test set: no selection is "
        "involved. What was selected on the test set is named so.",
        "Accuracies, ECE and agreement in percent, NLL in nats, FLOPs as multiply-adds of one image. ± is "
        "the sample standard deviation over (n) seeds of the student; its teacher stays the same.",
    ]
    lines += [
        f"Published, {their.table}: {their.protocol}. Another protocol than ours: read it for orientation."
        for their in _published(found)
    ]
    if any(len(row.done) == 1 for row in found.rows):
        lines.append("A number without ± is of one seed: how far another seed would move it is not known.")
    if _comparisons(found):
        lines.append(
            "Differences are paired: the members of a seed start from the same weights and see the same "
            "batches. Better and worse: the whole interval (Student's t over seeds, at least as wide as one "
            "image more or less makes it) lies on that side of 0. Seeds are few and many methods are "
            "compared, so a verdict by itself is no proof. A method that diverged on a seed is not compared."
        )
    if found.ahead:
        lines.append(
            "Bold: the best method, ahead of every other beyond seed noise (95 % interval of the differences "
            "paired by seed)."
        )
    elif found.comparable:
        lines.append(
            "No method is bold: the best is not ahead of every other beyond seed noise (paired, 95 %)."
        )
    lines += [f"{markdown(row.name)}: {markdown(row.distinction)}." for row in found.rows if row.distinction]
    return "\n".join(f"- {line}" for line in lines)


def _small_test_set(found: Group) -> list[str]:
    if found.test_images >= SMALL_TEST_SET:
        return []
    count = found.test_images
    return [f"One of the {count} test images is worth {100 / count:.2f} points: this table ranks nothing."]


def leaderboard_csv(records: Iterable[Record]) -> str:
    """Write one line a record, unrounded; an apostrophe disarms what a spreadsheet would run as a formula.

    Raises:
        UsageError: two records tell the same member differently.
    """
    unique = {record.key: record for found in group(records) for record in found.records}
    lines = [_csv_line(record) for record in unique.values()]
    headers = list(lines[0]) if lines else []
    file = io.StringIO()
    writer = csv.DictWriter(file, headers, lineterminator="\n")
    if lines:
        writer.writeheader()
        writer.writerows(lines)
    return file.getvalue()


def _csv_line(record: Record) -> dict[str, Any]:
    taught = teachers(record)
    line = {
        "benchmark": record.benchmark,
        "protocol": record.protocol["name"],
        "protocol_hash": record.protocol["hash"],
        "teacher_key": " ".join(artifact["key"] for artifact in taught),
        "teacher": " + ".join(artifact["network"] for artifact in taught),
        "teacher_top1": taught[0]["score"].get("top1") if len(taught) == 1 else None,
        "method": record.method,
        "seed": record.seed,
        "status": record.status,
        "diverged_at": record.diverged_at,
        **record.accuracy,
        **{name: read(record) for name, read in QUANTITIES.items() if name not in record.accuracy},
        "key": record.key,
    }
    return {name: spreadsheet(value) if isinstance(value, str) else value for name, value in line.items()}


def plain_rows(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Give the rows of all leaderboards as plain values, for pandas and the like.

    Returns:
        A mapping a group and method: benchmark, protocol, protocol_hash, teacher, teacher_key, teacher_top1,
        method, name, seeds (finished), diverged (a mapping of seeds to epochs), and of each quantity in
        `QUANTITIES` `..._mean`, `..._std` and `..._count`.

    Raises:
        UsageError: two records tell the same member differently.
    """
    rows = []
    for found in group(records):
        for row in found.rows:
            plain = {
                "benchmark": found.benchmark,
                "protocol": found.protocol,
                "protocol_hash": found.protocol_hash,
                "teacher": _teacher_name(found) or None,
                "teacher_key": " ".join(artifact["key"] for artifact in found.teachers) or None,
                "teacher_top1": found.teachers[0]["score"].get("top1") if len(found.teachers) == 1 else None,
                "method": row.method,
                "name": row.name,
                "seeds": [record.seed for record in row.done],
                "diverged": {record.seed: record.diverged_at for record in row.diverged},
            }
            for quantity in QUANTITIES:
                summary = row.over_seeds(quantity)
                plain[f"{quantity}_mean"] = summary.mean
                plain[f"{quantity}_std"] = summary.std
                plain[f"{quantity}_count"] = summary.count
            rows.append(plain)
    return rows


def terminal_table(records: Iterable[Record]) -> str:
    """Write a compact table for each protocol and teacher, at most 100 columns wide.

    Raises:
        UsageError: two records tell the same member differently.
    """
    return "\n\n".join(_terminal_group(found) for found in group(records)) or "There are no records yet."


def _terminal_group(found: Group) -> str:
    quantities = ("best_on_test", "nll", "ece", "seconds_per_epoch")
    lines = []
    for artifact in found.teachers:
        score = {"last": artifact["score"].get("top1"), **artifact["score"]}
        values = [_narrow(score.get(quantity), quantity) for quantity in ("last", *quantities)]
        lines.append([_in_lines(f"teacher {artifact['network']}"), *values])
    for row in found.rows:
        best = row.over_seeds("best_on_test").format().split(" (")[0]
        means = [_narrow(row.over_seeds(quantity).mean, quantity) for quantity in quantities[1:]]
        lines.append([_in_lines(row.name), row.accuracy(), best, *means])
    headers = ["method", "top-1, last", "best on test*", "NLL", "ECE", "s/epoch"]
    table = tabulate(lines, headers, disable_numparse=True, colalign=["left", *["right"] * 5])
    settings = found.settings
    lost = [f"{row.name}: {row.status()}." for row in found.rows if row.diverged]
    remarks = ["* selected on the test set; all else is of the last epoch, without selection.", *lost]
    heading = (
        f"{_name(found)}: {counted(settings['epochs'], 'epochs')}, batch size {settings['batch_size']}, "
        f"{settings['data']['test']:,} test images"
    )
    wrapped = [_wrap(remark) for remark in (*_small_test_set(found), *remarks)]
    return "\n".join([_wrap(heading), table, *wrapped])


def _in_lines(name: str, width: int = 28) -> str:
    """Break a long spelling before its options and its source, so that those of a sweep can be told apart."""
    lines = [""]
    for part in re.split(r"(?=[:+])", ascii_only(name, 200)):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line for whole in lines for line in textwrap.wrap(whole, width))


def _narrow(value: float | None, quantity: str) -> str:
    return Summary(1, value, None).format(3 if quantity == "nll" else 2)


def _wrap(text: str) -> str:
    return textwrap.fill(ascii_only(text, 400), TERMINAL_WIDTH)
