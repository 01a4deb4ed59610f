"""Which units of a student sleep, and the page that shows it."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import kdzoo
from kdzoo.data import Split
from kdzoo.outputs import ModelOutput
from kdzoo.results.store import read_record

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


def student(network):
    """Give logits in chunks of two images."""

    def logits(split):
        chunks = torch.from_numpy(split.images).split(2)
        return torch.cat([network(chunk).logits for chunk in chunks])

    return SimpleNamespace(network=network, logits=logits)


@pytest.mark.parametrize("dead", [0, 3, 8])
def test_a_unit_sleeps_if_no_image_wakes_it(measure, dead):
    # Each image wakes one unit: no chunk alone wakes them all.
    images = np.zeros((8, 1, 4, 4), np.float32)
    images.reshape(8, 16)[range(8), range(8)] = 1.0
    found, _ = measure.asleep(student(Net(dead)), Split(images, np.zeros(8, np.int64)))
    assert found == {"relu": (dead, 8), "places": (2, 3)}


def test_hooks_are_gone_afterwards(measure):
    network = Net(1)
    split = Split(np.ones((2, 1, 4, 4), np.float32), np.zeros(2, np.int64))
    measure.asleep(student(network), split)
    assert not network.relu._forward_hooks


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_records_stand_in_the_docs_and_are_of_committed_trainings(measure, path, capsys):
    record = json.loads(path.read_text())
    measure.main(["--show", str(path)])
    assert capsys.readouterr().out.strip() in (ROOT / "docs" / "results.md").read_text()
    pages = (ROOT / "benchmarks" / "results").rglob("*.json")
    trained = {found["key"]: found for found in (json.loads(page.read_text()) for page in pages)}
    for row in record["students"]:
        found = trained[row["key"]]
        assert found["accuracy"]["last"] == pytest.approx(row["top1"], abs=measure.LARGEST_GAP)
        assert [found["method"], found["seed"]] == [row["method"], row["seed"]]
        protocol = found["protocol"]
        assert f"{protocol['name']}-{protocol['hash'][:8]}" == row["protocol"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of two students: one trained, one diverged."""
    work = tmp_path_factory.mktemp("work")
    small = {"benchmark": "digits", "epochs": 1, "threads": 1, "device": "cpu", "work_dir": work}
    kdzoo.run(methods="scratch", **small)
    kdzoo.run(methods="scratch", cfg_options={"recipe.optimizer.lr": 1e12}, **small)
    return sorted(path.parent for path in work.glob("runs/*/*/*/*/record.json"))


def test_students_are_counted_and_those_that_diverged_are_left_out(measure, runs, tmp_path, capsys):
    assert {read_record(folder).status for folder in runs} == {"done", "diverged"}
    measure.main([*map(str, runs), "--output", str(tmp_path / "record.json")])
    (row,) = json.loads((tmp_path / "record.json").read_text())["students"]
    record = next(r for r in map(read_record, runs) if r.status == "done")
    assert [row["key"], row["method"], row["seed"]] == [record.key, "scratch", 0]
    assert row["top1"] == pytest.approx(record.accuracy["last"], abs=1e-3)
    assert {layer: units for layer, (_, units) in row["asleep"].items()} == {"hidden.2": 120, "hidden.4": 84}
    measure.main(["--show", str(tmp_path / "record.json")])
    assert "| `scratch` |" in capsys.readouterr().out


def test_a_student_that_is_not_as_recorded_is_refused(measure, runs, monkeypatch):
    monkeypatch.setattr(measure, "asleep", lambda student, images: ({}, 0.0))
    with pytest.raises(SystemExit, match=r"its top-1 is 0\.00 here"):
        measure.rows(runs, None)


def test_a_folder_that_is_no_run_is_one_sentence(measure, tmp_path):
    with pytest.raises(SystemExit, match=r"has no record\.json"):
        measure.main([str(tmp_path)])


@pytest.mark.parametrize("change", [{"protocol": "another"}, {"key": "another autoencoder"}])
def test_what_one_table_cannot_tell_apart_is_refused(measure, change):
    row = {"protocol": "e1", "method": "kd", "seed": 0, "key": "a", "asleep": {"relu": [1, 2]}}
    with pytest.raises(SystemExit, match="each method and seed once"):
        measure.table({"students": [row, {**row, **change}]})


@pytest.mark.parametrize(
    "arguments", [[], ["run", "--show", "a.json"], ["--show", "a.json", "--output", "b.json"]]
)
def test_runs_or_a_record_are_wanted(measure, arguments, capsys):
    with pytest.raises(SystemExit):
        measure.main(arguments)
    assert "one of the two" in capsys.readouterr().err
