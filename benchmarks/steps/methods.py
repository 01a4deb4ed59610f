"""Seconds a step and peak memory of every method beside scratch's, on a benchmark's own pair and images.

    python -m benchmarks.steps.methods --benchmark cifar100_resnet32x4_resnet8x4 --data-root DIR
    python -m benchmarks.steps.methods --show benchmarks/steps/results/methods-*.json
    python -m benchmarks.steps.methods --ship benchmarks/steps/results/methods-*.json

Times are of one cohort of all methods: each step is everybody's, one after the other, and the median of a
member's own seconds counts. Memory is of a process for each method, that of two steps. The teacher's weights
are random, its batch norms fitted to one batch; optimizer and learning rate are the benchmark's. `--ship`
makes a record's numbers those that `kdzoo list methods -v` shows.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from kdzoo.registry import DISTILLERS
from kdzoo.results import costs
from kdzoo.training.benchmark import load_benchmark
from kdzoo.training.choices import choose_device
from kdzoo.training.runtime import runtime

from ..throughput import ours
from ..throughput.memory import peak
from ..throughput.pair import Pair, load_pair
from ..throughput.surroundings import machine
from .measure import part

RESULTS = Path(__file__).parent / "results"
WARM_UP = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: of the command line; None takes the process's.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--benchmark", default="cifar100_resnet32x4_resnet8x4")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--methods", default="", help="default: every distiller with its defaults")
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device")
    parser.add_argument(
        "--work-dir", type=Path, help="where the teacher is kept (default: removed at the end)"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the record")
    parser.add_argument(
        "--show", type=Path, nargs="+", help="write the tables of records, and measure nothing"
    )
    parser.add_argument(
        "--ship", type=Path, help="let `kdzoo list methods -v` show a record's numbers, and measure nothing"
    )
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.show:
        for path in options.show:
            print(table(json.loads(path.read_text())) + "\n")
        return 0
    if options.ship:
        costs.PATH.write_text(
            json.dumps(costs.shipped(json.loads(options.ship.read_text())), indent=1) + "\n"
        )
        return 0
    with tempfile.TemporaryDirectory(prefix="steps-") as folder:
        pair = _pair(options, options.work_dir or Path(folder))
        with runtime(pair.device, options.threads):
            if options.memory_of:
                _steps(pair, [options.memory_of], 2)
                print(peak(pair.device))
                return 0
            methods = options.methods.split(",") if options.methods else ["scratch", *_others()]
            record = {**_times(pair, methods, options.steps), "machine": machine(pair.device)}
        record["MiB"] = {m: round(_memory(options, pair, m) / 2**20) for m in methods}
    device = re.sub(r"[^a-z0-9]+", "-", record["machine"]["device_name"].lower()).strip("-")
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"methods-{device}-{pair.name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(table(record))
    return 0


def _others() -> list[str]:
    return [name for name in DISTILLERS.names() if name != "scratch"]


def _pair(options: argparse.Namespace, work: Path) -> Pair:
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    rate = load_benchmark(options.benchmark).student.recipe.optimizer["lr"]
    pair = load_pair(
        options.benchmark, options.data_root, steps=None, work=work, device=choose_device(options.device),
        lr=rate,
    )  # fmt: skip
    # Nobody is judged; some test images make the teacher ready sooner.
    few = part(pair.data.test, 2 * len(pair.data.classes))
    return replace(pair, data=replace(pair.data, test=few))


def _steps(pair: Pair, methods: Sequence[str], count: int) -> list[dict[str, float]]:
    with ours.cohort_of(pair, methods, "float32") as cohort:
        steps = ours.Steps(cohort)
        found = [steps() for _ in range(count)]
        finite = {m.name: bool(torch.stack([p.isfinite().all() for p in m.network.parameters()]).all())
                  for m in cohort.members}  # fmt: skip
    return [*found, finite]


def _times(pair: Pair, methods: Sequence[str], count: int) -> dict[str, Any]:
    *found, finite = _steps(pair, methods, WARM_UP + count)
    return {
        "schema": 1,
        "benchmark": pair.name,
        "networks": list(pair.networks),
        "data": pair.told,
        "batch": pair.batch_size,
        "steps": count,
        "seconds": {
            m: round(statistics.median(f[m] for f in found[WARM_UP:]), 5) for m in (*methods, "shared")
        },
        "finite": finite,
    }


def _memory(options: argparse.Namespace, pair: Pair, method: str) -> int:
    """Take two steps of a method in a process of its own, and give that process's peak in bytes."""
    given = {
        "--benchmark": options.benchmark, "--threads": options.threads, "--device": pair.device,
        "--work-dir": pair.work, "--memory-of": method, "--data-root": options.data_root,
    }  # fmt: skip
    told = [text for name, value in given.items() if value is not None for text in (name, str(value))]
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks.steps.methods", *told], check=True, capture_output=True, text=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    return int(answer.stdout.split()[-1])


def table(record: dict[str, Any]) -> str:
    """Write the table of a record, in Markdown.

    Args:
        record: as the measurement wrote it.
    """
    seconds, memory = record["seconds"], record["MiB"]
    rows = [
        [
            f"`{method}`", f"{1000 * seconds[method]:.0f}", f"{seconds[method] / seconds['scratch']:.2f}",
            f"{memory[method]}", f"{memory[method] - memory['scratch']}",
            "" if record["finite"][method] else "weights not finite",
        ]
        for method in memory
    ]  # fmt: skip
    head = ["method", "ms a step", "times scratch's", "MiB", "more than scratch", ""]
    teacher, student = record["networks"]
    machine = record["machine"]
    return (
        f"{record['benchmark']}: {teacher} -> {student}, batch {record['batch']}, medians of "
        f"{record['steps']} steps; {machine['device_name']}, threads: {machine['threads']}. What all share "
        f"(images, teacher, digests) takes {1000 * seconds['shared']:.0f} ms.\n\n"
        + tabulate(rows, head, tablefmt="github", disable_numparse=True)
    )


if __name__ == "__main__":
    sys.exit(main())
