"""Every measured number of the pages stands in a committed record, or in a table of the paper."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
GLOBS = ("README.md", "docs/*.md", "benchmarks/*/*.md")
PAGES = sorted(str(path.relative_to(ROOT)) for pattern in GLOBS for path in ROOT.glob(pattern))
NUMBER = re.compile(r"(?<![\w./-])\d+\.\d+(?=x?(?![\w./]))")

PAPER = json.loads((ROOT / "tests" / "results" / "paper_tables.json").read_text())

# What is no measurement: settings of Table 7, a version of Python, and one image of 299 in percent.
SETTINGS = {
    "README.md": {"0.9", "0.1", "3.10", "0.33"},
    "benchmarks/throughput/README.md": {"1.00"},
}


def prose(page: str) -> str:
    """Give a page without its code, whose tables another test holds against the records, and its links."""
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`\n]*`", "", text))


def numbers(thing: Any) -> Iterator[float]:
    if isinstance(thing, dict):
        for value in thing.values():
            yield from numbers(value)
    elif isinstance(thing, list):
        for value in thing:
            yield from numbers(value)
    elif isinstance(thing, (int, float)) and not isinstance(thing, bool):
        yield float(thing)


def costs(record: dict[str, Any]) -> dict[str, dict[int, list[float]]]:
    path = ROOT / "benchmarks" / "throughput" / "numbers.py"
    spec = importlib.util.spec_from_file_location("throughput_numbers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.costs(record)


def recorded() -> set[str]:
    """Write what records sum up, as pages may write it: with three digits that count.

    Single samples are left out: among thousands of them any number is found.
    """
    found: list[float] = []
    for path in (ROOT / "benchmarks" / "throughput" / "results").glob("*.json"):
        record = json.loads(path.read_text())
        found += numbers([record.get("ratios"), record.get("kdzoo over bare"), record.get("losses")])
        if "samples" in record:
            found += [float(np.median(s)) for of in costs(record).values() for s in of.values()]
            found += [sample["median"] for sample in record["samples"]]
        found += [x for name, x in record.items() if isinstance(x, float) and name.startswith("seconds")]
        found += numbers([record.get(f"{who}, {clock}") for who in ("kdzoo", "bare") for clock in ("wall",)])
    for path in (ROOT / "benchmarks" / "losses" / "results").glob("*.json"):
        found += numbers(json.loads(path.read_text())["losses"])
    steps = (ROOT / "benchmarks" / "steps" / "results").glob("methods-*.json")
    beside = [json.loads(path.read_text())["seconds"] for path in steps]
    # Not rounded further: nearly every number of two digits would be found.
    written = {f"{x:.3g}" for x in found} | {f"{x:.2f}" for x in numbers(PAPER)}
    written |= {f"{x / seconds['scratch']:.2f}" for seconds in beside for x in seconds.values()}
    return written | set(NUMBER.findall((ROOT / "leaderboard.md").read_text()))


@pytest.mark.parametrize("page", PAGES)
def test_numbers_of_a_page_are_recorded(page: str) -> None:
    known = recorded() | SETTINGS.get(page, set())
    unknown = [number for number in NUMBER.findall(prose(page)) if number not in known]
    assert not unknown


def tables(page: str) -> list[str]:
    return re.findall(r"(?:^\|.*\n)+", (ROOT / page).read_text(), flags=re.MULTILINE)


def test_tables_under_a_heading_of_the_leaderboard_are_the_leaderboards() -> None:
    theirs = tables("leaderboard.md")
    headings = {table.splitlines()[0] for table in theirs}
    shown = [table for page in PAGES for table in tables(page) if table.splitlines()[0] in headings]
    assert shown
    assert [table for table in shown if table not in theirs] == []


def test_a_number_that_was_never_measured_is_found() -> None:
    known = recorded()
    assert [n for n in ("91.37", "83.7", "0.613", "68.41") if n in known] == []
