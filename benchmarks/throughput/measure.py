"""The measurement: build whoever takes part, let them take their rounds, and write the record."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdzoo.training.choices import choose_device
from kdzoo.training.runtime import runtime

from . import memory
from .clock import take_rounds
from .contestants import Line
from .numbers import Record, bare_steps, ratios, spread
from .pair import METHODS, Pair, load_pair
from .surroundings import ALLOCATOR, Surroundings, machine


@contextmanager
def working(options: Namespace) -> Iterator[tuple[Pair, Path]]:
    """Load the pair in a folder for artifacts, which is removed unless it was given.

    Args:
        options: of the command.
    """
    with ExitStack() as held:
        given = options.work_dir
        work = given or Path(held.enter_context(tempfile.TemporaryDirectory(prefix="throughput-")))
        work.mkdir(parents=True, exist_ok=True)
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        device = choose_device(options.device)
        yield (
            load_pair(
                options.benchmark, options.data_root, steps=options.epoch_steps, work=work, device=device,
                lr=options.lr,
            ),
            work,
        )  # fmt: skip


def measure(options: Namespace) -> Path:
    """Measure a pair.

    Args:
        options: of the command.

    Returns:
        The record, which is written after every round, so that a measurement that is ended keeps those.
    """
    left_out: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        if "left out" in line:
            left_out.append(line.replace(": left out,", ":"))

    with working(options) as (pair, work), runtime(pair.device, options.threads), ExitStack() as held:
        say(f"{pair.benchmark}: {pair.told}")
        Surroundings().enter(pair.device)
        held.callback(ALLOCATOR.set, False)
        load_before, began = _load(), time.time()
        line = Line(pair, options.counts, options.contestants, options.precisions, held, say)
        steps = options.steps or (1 if pair.device.type == "cpu" else 10)
        record: Record = {
            "schema": 1,
            "pair": {"name": pair.name, "networks": list(pair.networks), "data": pair.told},
            "methods": list(METHODS),
            "counts": options.counts,
            "batch": pair.batch_size,
            "least steps of a sample": steps,
            "clock": options.clock,
            "lr": pair.lr,
            "machine": machine(pair.device),
            "left_out": left_out,
            "bytes a bank keeps of an image": line.banks,
        }
        for kept in take_rounds(
            line.contestants, options.rounds, pair.device, steps=steps, settle=options.settle,
            clock=options.clock, say=say,
        ):  # fmt: skip
            record |= {
                "rounds": kept,
                "load before and after": [load_before, _load()],
                "seconds": round(time.time() - began),
                "samples": [contestant.sample() for contestant in line.contestants],
            }
            write(finish(record), options.output)
        held.close()
        if "memory" in options.contestants:
            say("peak memory, a process for each number of methods")
            record["memory"] = {
                "precision": memory.PRECISION,
                "order": list(memory.ORDER),
                "peak": memory.measure_all(options, work, options.counts),
                "members": line.resident,
            }
        if "losses" in options.contestants:
            record["losses"] = _losses(options, say)
    return write(finish(record), options.output)


def finish(record: Record) -> Record:
    """Add what follows from the samples.

    Args:
        record: of a measurement.
    """
    for sample in record["samples"]:
        sample |= spread(sample["seconds"])
    record["bare"] = {name: spread(seconds) for name, seconds in bare_steps(record).items()}
    record["ratios"] = ratios(record)
    return record


def write(record: Record, folder: Path, prefix: str = "") -> Path:
    """Write a record under the name of its device and pair; processors of one name differ in what they can.

    Args:
        record: of a measurement.
        folder: made if it is not there.
        prefix: of the file's name.
    """
    machine = record["machine"]
    words = [machine["device_name"]]
    if machine["device"] == "cpu":
        bf16 = [flag for flag in ("amx_bf16", "avx512_bf16") if flag in machine["flags"]]
        words += [*bf16, machine["cpu_capability"]][:1]
    device = re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{prefix}{device}-{record['pair']['name']}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def _losses(options: Namespace, say: Any) -> dict[str, Any] | None:
    """Measure each loss alone against its plain form, by that measurement's own command."""
    command = Path(__file__).parents[1] / "losses" / "measure.py"
    if options.clock == "cpu":
        say("losses: left out, they are timed by the wall's clock")
        return None
    device = choose_device(options.device).type
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "losses.json")
        threads = [] if options.threads is None else ["--threads", str(options.threads)]
        subprocess.run(
            [sys.executable, str(command), "--device", device, "--output", str(path), *threads], check=True
        )
        found: dict[str, Any] = json.loads(path.read_text())
    return found


def _load() -> float:
    """Give how many processes wanted a core in the last minute."""
    try:
        with open("/proc/loadavg") as file:
            return float(file.read().split()[0])
    except OSError:
        return float(np.nan)
