"""Which units of a student sleep, and the page that shows it."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kdzoo.outputs import ModelOutput

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "units" / "results"


@pytest.fixture
def measure(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    return importlib.import_module("benchmarks.units.measure")


class Net(torch.nn.Module):
    """Eight units, of which the first `dead` are 0 for all images; of places the last alone wakes."""

    def __init__(self, dead):
        super().__init__()
        self.relu = torch.nn.ReLU()
        self.places = torch.nn.ReLU()
        self.dead = dead

    def forward(self, images):
        flat = images.flatten(1)[:, :8].clone()
        flat[:, : self.dead] = -1
        spatial = torch.full((len(images), 3, 2, 2), -1.0)
        spatial[:, 2, 1, 1] = images.flatten(1)[:, 0]
        self.places(spatial)
        return ModelOutput(self.relu(flat))


class Feed:
    def __init__(self, images):
        self.images = images

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def chunks(self, _):
        for chunk in self.images.split(2):
            yield chunk, None


def student(network, images):
    sheet = SimpleNamespace(size=4, precision="float32")
    return SimpleNamespace(network=network, sheet=sheet, feed=Feed)


@pytest.mark.parametrize("dead", [0, 3, 8])
def test_a_unit_sleeps_if_no_image_wakes_it(measure, dead):
    # Each image wakes one unit: no chunk alone wakes them all.
    images = torch.zeros(8, 1, 4, 4)
    images.flatten(1)[range(8), range(8)] = 1.0
    found = measure.asleep(student(Net(dead), images), images)
    assert found == {"relu": (dead, 8), "places": (2, 3)}


def test_hooks_are_gone_afterwards(measure):
    network = Net(1)
    measure.asleep(student(network, None), torch.ones(2, 1, 4, 4))
    assert not network.relu._forward_hooks


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_records_stand_in_the_docs_and_are_of_committed_trainings(measure, path, capsys):
    record = json.loads(path.read_text())
    measure.main(["--show", str(path)])
    assert capsys.readouterr().out.strip() in (ROOT / "docs" / "results.md").read_text()
    pages = (ROOT / "benchmarks" / "results").rglob("*.json")
    trained = {found["key"]: found for found in (json.loads(page.read_text()) for page in pages)}
    for row in record["students"]:
        assert trained[row["key"]]["accuracy"]["last"] == row["top1"]


@pytest.mark.parametrize("arguments", [[], ["run", "--show", "record.json"]])
def test_runs_or_a_record_are_wanted(measure, arguments, capsys):
    with pytest.raises(SystemExit):
        measure.main(arguments)
    assert "one of the two" in capsys.readouterr().err
