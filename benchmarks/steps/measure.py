"""Train a few steps of a benchmark's own pair under chosen methods, and tell seconds a step and peak memory.

    python benchmarks/steps/measure.py --benchmark cifar100 --data-root DIR --methods table8 --steps 3

The data set is loaded whole; students (and teacher, and autoencoder) then train on as many of its images as
the steps take, spread over the classes, for one epoch. One process, whose peak is of this run alone. What was
measured stands in results/; on CPUs that others used at the same time, so that there the memory counts alone.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import kdzoo
from kdzoo.data import Split, load_dataset
from kdzoo.data.order import draw_per_class
from kdzoo.training.benchmark import load_benchmark


def peak() -> float:
    """Give the peak memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 2**20)


def part(split: Split, count: int) -> Split:
    """Take as many images of a split, the same number of each class as far as there are."""
    classes = len(np.unique(split.labels))
    drawn = draw_per_class(split.labels, math.ceil(count / classes), 0)
    chosen = np.sort(drawn.reshape(classes, -1).T.ravel()[:count]) if len(drawn) >= count else drawn
    return Split(np.ascontiguousarray(split.images[chosen]), split.labels[chosen])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--benchmark", default="cifar100")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--methods", default="table8")
    parser.add_argument("--student")
    parser.add_argument("--teacher")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--device", default=None)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--output", type=Path, help="a JSON file to write (default: print it)")
    options = parser.parse_args()

    began = time.perf_counter()
    settings = load_benchmark(options.benchmark, student=options.student, teacher=options.teacher)
    data = load_dataset(settings.data, options.data_root, settings.data_options)
    fingerprint, statistics = data.fingerprint, data.statistics
    loaded = time.perf_counter() - began
    after_loading = peak()
    count = options.steps * settings.student.recipe.batch_size
    small = replace(data, train=part(data.train, count), test=part(data.test, 2 * len(data.classes)))
    with tempfile.TemporaryDirectory() as work:
        results = kdzoo.run(
            benchmark=options.benchmark, data=small, methods=options.methods, student=options.student,
            teacher=options.teacher, epochs=1, teacher_epochs=1, cae_epochs=1, threads=options.threads,
            device=options.device, precision=options.precision, work_dir=work, progress=True,
        )  # fmt: skip
    if results.failed:
        raise SystemExit(str(results))
    timing = {r.method: r.timing for r in results.records}
    steps = next(iter(timing.values()))["steps"]
    measured = json.dumps(
        {
            "benchmark": options.benchmark,
            "pair": [settings.section("teacher").network, settings.student.network],
            "precision": options.precision,
            "images": len(data.train),
            "fingerprint": fingerprint[:16],
            "mean": statistics[0],
            "seconds to load": round(loaded, 2),
            "MiB after loading": round(after_loading),
            "steps": steps,
            "batch": settings.student.recipe.batch_size,
            "seconds a step, own": {m: round(t["seconds_per_epoch"] / steps, 2) for m, t in timing.items()},
            "seconds a step, shared": round(
                max(t["shared_seconds_per_epoch"] for t in timing.values()) / steps, 2
            ),
            "status": {r.method: r.status for r in results.records},
            "peak MiB": round(peak()),
            "peak MiB on the GPU": torch.cuda.max_memory_allocated() >> 20
            if torch.cuda.is_available()
            else None,
            "threads": results.records[0].environment["threads"],
            "device": results.records[0].environment["device_name"],
        },
        indent=1,
    )
    if options.output is None:
        print(measured)
    else:
        options.output.write_text(f"{measured}\n")


if __name__ == "__main__":
    main()
