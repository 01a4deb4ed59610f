"""What a step of each method costs: the table of a record, and the page that shows it."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from kdzoo.listing import listing
from kdzoo.registry import DISTILLERS
from kdzoo.results import costs
from kdzoo.results.costs import cost_of

ROOT = Path(__file__).parents[2]
RECORDS = sorted((ROOT / "benchmarks" / "steps" / "results").glob("methods-*.json"))


@pytest.fixture
def methods(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    return importlib.import_module("benchmarks.steps.methods")


def test_every_method_is_measured_and_stands_in_the_docs(methods, capsys):
    assert RECORDS
    page = (ROOT / "docs" / "speed.md").read_text()
    for path in RECORDS:
        record = json.loads(path.read_text())
        assert record["MiB"].keys() == set(DISTILLERS.names())
        assert record["seconds"].keys() == {*DISTILLERS.names(), "shared"}
        assert methods.main(["--show", str(path)]) == 0
        assert capsys.readouterr().out.strip() in page


def test_the_list_of_methods_shows_what_was_measured():
    shown = json.loads(costs.PATH.read_text())
    assert shown in [costs.shipped(json.loads(path.read_text())) for path in RECORDS]
    times, memory = shown["methods"]["reviewkd"]
    assert f"cost     {times:.1f} of scratch's step, and {memory} MiB more" in listing(
        "methods", verbose=True
    )
    assert cost_of("mine") == ""


def test_weights_that_overflow_are_told_of(methods):
    record = json.loads(RECORDS[0].read_text())
    record["finite"] = {name: name != "kd" for name in record["finite"]}
    told = [line for line in methods.table(record).splitlines() if "weights not finite" in line]
    assert [line.split()[1] for line in told] == ["`kd`"]
