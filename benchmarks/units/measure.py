"""Count the hidden units of trained students that no test image wakes.

    python benchmarks/units/measure.py work_dirs/runs/fashion_mnist/lenet5-e20-*/*/* --output RECORD
    python benchmarks/units/measure.py --show RECORD

A unit is one output of an `nn.ReLU` (a channel, where it has places); it is asleep if it is 0 for every test
image: what it has learnt is lost, and such images send no gradient back to it. Functional ReLUs are not seen:
of LeNet-5 the two linear layers are counted, its convolutions are not. Every row of the record has the key of
the training's own record. Runs that diverged are left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdzoo.checks import KdzooError
from kdzoo.data import Split, load_dataset
from kdzoo.results.store import read_record
from kdzoo.results.words import github_table
from kdzoo.students import Student, load_student
from kdzoo.training.evaluation import classification_metrics
from kdzoo.training.runtime import runtime

LARGEST_GAP = 0.1  # points


@torch.no_grad()
def asleep(student: Student, images: Split) -> tuple[dict[str, tuple[int, int]], float]:
    """Count the units that are 0 for all images.

    Args:
        student: trained.
        images: that it is asked for, and their labels.

    Returns:
        By the name of each `nn.ReLU` in the network, which must be called once a pass: units asleep, and
        units; and the top-1 accuracy of the same passes in percent.
    """
    awake: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def seen(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            fired = (output > 0).transpose(0, 1).flatten(1).any(dim=1)
            awake[name] = awake[name] | fired if name in awake else fired

        return seen

    found = {name: part for name, part in student.network.named_modules() if isinstance(part, nn.ReLU)}
    handles = [part.register_forward_hook(watch(name)) for name, part in found.items()]
    try:
        logits = student.logits(images)
    finally:
        for handle in handles:
            handle.remove()
    counts = {name: (int((~fired).sum()), fired.numel()) for name, fired in awake.items()}
    # As training judged it: in bf16 logits tie, and argmax would decide otherwise.
    labels = torch.from_numpy(images.labels).to(logits.device)
    return counts, float(classification_metrics(logits, labels, None)["top1"])


def rows(folders: Iterable[Path], data_root: Path | None) -> list[dict[str, Any]]:
    """Count for every run that finished, in the order of protocol, method and seed.

    Args:
        folders: of runs.
        data_root: where the data sets' files are.
    """
    found, tests = [], {}
    for folder in folders:
        recorded = read_record(folder)
        if recorded is not None and recorded.status == "diverged":  # It left no student.
            continue
        student = load_student(folder)
        record, data = student.record, student.sheet.data
        if data is None:
            raise SystemExit(
                f"{folder}: it was trained on arrays, which cannot be loaded again. Leave it out."
            )
        name = json.dumps(data, sort_keys=True)
        if name not in tests:
            tests[name] = load_dataset(data["type"], data_root, data["options"]).test
        with runtime(torch.device("cpu"), 1):
            counts, top1 = asleep(student, tests[name])
        # Another processor decides a few images otherwise, other weights or images decide many.
        if abs(top1 - record.accuracy["last"]) > LARGEST_GAP:
            raise SystemExit(
                f"{folder}: its top-1 is {top1:.2f} here, and {record.accuracy['last']:.2f} in its record. "
                "Are its weights and test images those of its training?"
            )
        found.append(
            {
                "protocol": f"{record.protocol['name']}-{record.protocol['hash'][:8]}",
                "method": record.method,
                "seed": record.seed,
                "key": record.key,
                "top1": round(top1, 4),
                "asleep": {layer: list(units) for layer, units in counts.items()},
            }
        )
    return sorted(found, key=lambda row: (row["protocol"], row["method"], row["seed"]))


def table(record: dict[str, Any]) -> str:
    """Lay out a record in markdown: a row a method, a column a layer, in each the count by seed.

    Raises:
        SystemExit: it has several protocols, or one method and seed twice, which one table cannot tell apart.
    """
    students = record["students"]
    protocols = {student["protocol"] for student in students}
    if len(protocols) > 1 or len({(s["method"], s["seed"]) for s in students}) < len(students):
        raise SystemExit(
            f"a table has one protocol and each method and seed once, got {', '.join(sorted(protocols))} "
            f"with {len(students)} students. Measure fewer runs at a time."
        )
    seeds = sorted({student["seed"] for student in students})
    layers = {layer: units for student in students for layer, (_, units) in student["asleep"].items()}
    by_method: dict[str, dict[int, Any]] = {}
    for student in students:
        by_method.setdefault(student["method"], {})[student["seed"]] = student["asleep"]
    told = ", ".join(str(seed) for seed in seeds)
    headers = ["method", *(f"{layer}, asleep of {units} (seeds {told})" for layer, units in layers.items())]
    lines = []
    for method, counted in by_method.items():
        cells = [
            ", ".join(str(counted[seed][layer][0]) if seed in counted else "-" for seed in seeds)
            for layer in layers
        ]
        lines.append([f"`{method}`", *cells])
    return github_table(headers, lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folders of trained students")
    parser.add_argument("--data-root", type=Path, help="where the data's files are (default: usual places)")
    parser.add_argument("--output", type=Path, help="record to write (default: print it)")
    parser.add_argument(
        "--show", type=Path, metavar="RECORD", help="print a record's table, and measure nothing"
    )
    options = parser.parse_args(arguments)
    if bool(options.runs) == bool(options.show) or (options.show and options.output):
        parser.error("give folders of trained students, or a record to --show: one of the two")
    if options.show:
        print(table(json.loads(options.show.read_text())))
        return
    try:
        counted = rows(options.runs, options.data_root)
    except KdzooError as error:
        raise SystemExit(str(error)) from None
    lines = ",\n".join(f"  {json.dumps(row)}" for row in counted)
    text = f'{{\n "torch": "{torch.__version__}",\n "students": [\n{lines}\n ]\n}}\n'
    if options.output is None:
        print(text, end="")
    else:
        options.output.write_text(text)


if __name__ == "__main__":
    main()
