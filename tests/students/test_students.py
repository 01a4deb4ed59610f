"""Students found, loaded, shown pictures, measured again."""

import hashlib
import importlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

import kdzoo
from kdzoo import cli
from kdzoo.checks import UsageError
from kdzoo.data import Dataset
from kdzoo.registry import DATASETS
from kdzoo.results.sheet import read_sheet
from kdzoo.students import export_student, find_run, load_student
from kdzoo.students.evaluate import evaluate_student

from .conftest import CLASSES, NETWORKS, pictures


def folder_of(work):
    [folder] = work.glob("runs/*/*/*/*")
    return folder


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_same_images_give_the_recorded_numbers(runs, kind):
    """Bit for bit: a student that was loaded is the one that was judged."""
    student = load_student("scratch", work_dir=runs / kind)
    test = kdzoo.from_arrays(*pictures(48), *pictures(12, seed=1), classes=CLASSES).test
    labels = torch.from_numpy(test.labels)
    from kdzoo.training.evaluation import classification_metrics

    found = classification_metrics(student.logits(test), labels, None)
    assert found == student.record.epochs[-1]["test"]


@pytest.mark.parametrize("kind", NETWORKS)
def test_pictures_in_class_folders_give_the_same_numbers(runs, kind):
    student = load_student("scratch", work_dir=runs / kind)
    measured = evaluate_student(student, folder=runs / "pictures")
    recorded = student.record.epochs[-1]["test"]
    assert measured.images == 12
    assert measured.metrics["top1"] == recorded["top1"]
    assert measured.metrics["nll"] == pytest.approx(recorded["nll"], rel=1e-6)
    assert measured.recorded is None


@pytest.mark.parametrize(
    "config",
    [
        "data = dict(type='image_folder', size=48)\nviews = dict(resize=32)\n",
        "data = dict(type='image_folder', size=20, fit='squash')\nviews = dict(resize=32)\n",
        "data = dict(type='image_folder', size=32, stream=True)\n",
    ],
    ids=["made smaller", "made larger", "streamed"],
)
def test_pictures_are_resized_as_those_of_training_were(make_bench, tmp_path, monkeypatch, config):
    """The same pictures, by the data set and by their folder, give the recorded numbers."""
    monkeypatch.setenv("KDZOO_DATA", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    for place in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (tmp_path / "photos" / place).mkdir(parents=True)
        for number in range(6):
            picture = Image.fromarray(draw.integers(0, 256, (60, 70, 3), np.uint8))
            picture.save(tmp_path / "photos" / place / f"{number}.png")
    bench = make_bench(config)
    bench.run("scratch", data_root=tmp_path / "photos", epochs=1, workers=0)
    student = load_student("scratch", work_dir=bench.folder / "work")
    recorded = student.record.epochs[-1]["test"]
    assert evaluate_student(student).metrics == recorded
    assert evaluate_student(student, folder=tmp_path / "photos" / "test").metrics == recorded


def test_a_sheet_of_before_says_by_itself_how_pictures_are_resized(runs, copied):
    change(copied / "student.json", pictures={"fit": "crop", "short_side": 36})
    assert read_sheet(copied).pictures == {"fit": "crop", "short_side": 36, "size": 32}


def test_a_run_is_found_by_folder_record_and_method(runs):
    folder = folder_of(runs / "zoo")
    for name in (folder, str(folder), folder / "record.json"):
        assert find_run(name)[0] == folder
    assert find_run("scratch", runs / "zoo")[0] == folder


def test_runs_that_cannot_be_found_are_told(runs, tmp_path):
    folder = folder_of(runs / "zoo")
    with pytest.raises(UsageError, match=r"there is no folder scratch, and .* has no finished runs"):
        find_run("scratch", tmp_path)
    with pytest.raises(UsageError, match=r"there is no method 'scrach'\. Did you mean 'scratch'"):
        find_run("scrach", runs / "zoo")
    with pytest.raises(UsageError, match=r"has no record\.json"):
        find_run(folder.parent)
    twice = tmp_path / "twice"
    shutil.copytree(runs / "zoo", twice)
    shutil.copytree(folder_of(twice), folder_of(twice).parent.parent / "1" / "scratch-other")
    newer = next((twice).glob("runs/*/*/1/scratch-other/record.json"))
    os.utime(newer, (2e9, 2e9))
    with pytest.raises(
        UsageError, match=r"2 runs of 'scratch' are in .*newest first:\n  .*1/scratch.*\n  .*0/scratch"
    ):
        find_run("scratch", twice)


def test_a_run_is_found_by_what_its_method_means_and_by_benchmark(bench, tmp_path):
    work = bench.folder / "work"
    bench.run("kd,kd:alpha=0.5,reffakd")
    usual = find_run("kd", work)[1].settings["method"]["options"]
    assert find_run(f"kd:alpha={usual['alpha']:g}", work)[1].method == "kd"
    assert find_run("kd:alpha=0.50:temperature=4", work)[1].method == "kd:alpha=0.5"
    assert find_run("kd+reffakd", work)[1].method == "reffakd"
    assert find_run("kd", work, "tiny")[1].method == "kd"
    with pytest.raises(UsageError, match=r"work of benchmark 'other' has no finished runs"):
        find_run("kd", work, "other")
    with pytest.raises(UsageError, match=r"there is no folder work/none\. Name the folder"):
        find_run("work/none", work)
    damaged = find_run("kd:alpha=0.5", work)[0] / "record.json"
    damaged.write_text("{")
    assert find_run("kd", work)[1].method == "kd"
    with pytest.raises(UsageError, match="JSON"):
        find_run("kd:alpha=0.5", work)


@pytest.fixture
def copied(runs, tmp_path):
    """A copy of a run, to be damaged."""
    return shutil.copytree(folder_of(runs / "zoo"), tmp_path / "run")


def change(path, **values):
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps(content))


def test_a_student_that_diverged_is_none(copied):
    record = json.loads((copied / "record.json").read_text())
    record["epochs"][1]["train"]["loss"] = None
    change(copied / "record.json", status="diverged", epochs=record["epochs"])
    with pytest.raises(UsageError, match="diverged in epoch 2: it left no student"):
        load_student(copied)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "student.json").unlink(), "it has no student.json"),
        (lambda f: (f / "student.json").write_text("{"), "content must be JSON"),
        (lambda f: change(f / "student.json", size=0), "size must be an integer in [1, 100000], got 0"),
        (lambda f: change(f / "student.json", mean=[0.5]), "mean and std must be 3 numbers each"),
        (lambda f: change(f / "student.json", more=1), "must be made of schema"),
        (lambda f: change(f / "student.json", network={"type": "resnet9", "options": {}}), "'resnet9'"),
        (lambda f: change(f / "student.json", network={"type": "resnet14", "options": {}}), "does not hold"),
        (lambda f: change(f / "student.json", classes=["a", "b"]), "does not hold this student's weights"),
        (lambda f: (f / "student.safetensors").unlink(), "there is no such file"),
        (lambda f: (f / "student.safetensors").write_bytes(b"\0" * 40), "these are not the weights"),
        (lambda f: change(f / "student.json", weights=hashlib.sha256(b"").hexdigest()), "these are not the"),
        (lambda f: change(f / "student.json", record="0" * 64), "is of another run than its record"),
    ],
)
def test_what_is_missing_or_damaged_is_told_in_a_line(copied, damage, words):
    damage(copied)
    with pytest.raises(UsageError) as caught:
        load_student(copied)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_sheet_says_how_it_is_fed(runs):
    sheet = read_sheet(folder_of(runs / "zoo"))
    assert sheet.network == {"type": "resnet8", "options": {}}
    assert (sheet.classes, sheet.channels, sheet.size) == (CLASSES, 3, 32)
    assert sheet.pictures == {"fit": "crop", "short_side": 32, "size": 32}
    assert sheet.data is None


def test_nothing_in_its_folder_is_drawn_from_or_moves_the_generator(runs):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    load_student("scratch", work_dir=runs / "zoo")
    assert torch.equal(torch.get_rng_state(), before)


def test_predictions_are_the_likeliest_classes(runs):
    student = load_student("scratch", work_dir=runs / "zoo")
    paths = sorted((runs / "pictures").glob("*/*.png"))
    found = student.predict(paths, top=2)
    images = np.stack([np.asarray(Image.open(p)).transpose(2, 0, 1) for p in paths])
    logits = student.logits(kdzoo.data.Split(images, np.zeros(len(images), np.int64)))
    expected = logits.double().softmax(dim=1)
    for row, likely in zip(expected, found, strict=True):
        assert [name for name, _ in likely] == [CLASSES[i] for i in row.argsort(descending=True)[:2]]
        assert likely[0][1] == row.max().item()
    assert len(student.predict(paths[:1], top=50)[0]) == len(CLASSES)
    assert student.predict([]) == []


def test_predict_shows_a_table_for_each_picture(runs, capsys):
    paths = [str(p) for p in sorted((runs / "pictures").glob("*/1*.png"))]
    command = ["predict", "scratch", *paths, "--work-dir", str(runs / "zoo"), "--top", "2", "--device", "cpu"]
    assert cli.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[::3] == paths
    assert all(line.split()[1] == "%" and line.split()[2] in CLASSES for line in lines[1::3])


def test_pictures_of_any_size_and_mode_are_taken(runs, tmp_path, capsys):
    wide = Image.fromarray(np.full((40, 90), 200, np.uint8))
    for name, picture in {
        "grey.png": wide, "clear.png": wide.convert("RGBA"), "palette.gif": wide.convert("P"),
        "photo.jpg": wide.convert("RGB"), "fax.tif": wide.convert("1"),
    }.items():  # fmt: skip
        picture.save(tmp_path / name)
    paths = [str(p) for p in sorted(tmp_path.iterdir())]
    assert cli.main(["predict", "scratch", *paths, "--work-dir", str(runs / "zoo")]) == 0
    assert capsys.readouterr().out.count(" %") == 5 * 3


@pytest.mark.parametrize(
    ("words", "answers"),
    [
        (["predict", "scratch", "nosuch.png", "text.png"], ["nosuch.png", "text.png is no picture"]),
        (["predict", "scratch", "text.png", "--top", "0"], ["top must be an integer of at least 1, got 0"]),
        (["predict", "nosuch", "text.png"], ["there is no method 'nosuch'. There are: scratch"]),
        (["predict", "scratch", "text.png", "--device", "cuda:77"], ["device must be"]),
        (["predict", "scratch"], ["required: IMAGE"]),
        (["evaluate", "scratch"], ["was trained on arrays, which cannot be loaded again. Name --folder"]),
        (["evaluate", "scratch", "--folder", "nosuch"], ["there is no such folder"]),
        (["evaluate", "scratch", "--folder", "."], ["must have a folder for each class"]),
        (["export", "scratch", "--format", "tensorflow"], ["invalid choice: 'tensorflow'"]),
        (["export", "scratch", "--output", "text.png"], ["text.png is a file. Name a folder by --output."]),
    ],
)
def test_mistakes_end_in_a_line(runs, in_an_empty_folder, words, answers, capsys):
    (in_an_empty_folder / "text.png").write_text("no picture")
    command = [*words, "--work-dir", str(runs / "zoo")]
    assert cli.main(command) == 2
    said = capsys.readouterr().err
    assert all(answer in said for answer in answers), said
    assert len(said.splitlines()) <= 2


def test_a_place_that_cannot_be_written_is_told_with_its_option(runs, capsys):
    command = ["export", "scratch", "--work-dir", str(runs / "zoo"), "--output", "/proc/x"]
    assert cli.main(command) == 1
    assert "or choose another --output, then run the same command again." in capsys.readouterr().err


def test_folders_of_other_classes_are_refused(runs, tmp_path):
    shutil.copytree(runs / "pictures", tmp_path / "p")
    student = load_student("scratch", work_dir=runs / "zoo")
    for part in ("train", "test"):
        shutil.copytree(tmp_path / "p", tmp_path / "root" / part)
    with pytest.raises(UsageError, match=r"got 'test', 'train'\. Did you mean .*root/test\?$"):
        evaluate_student(student, folder=tmp_path / "root")
    (tmp_path / "p" / "dog").rename(tmp_path / "p" / "wolf")
    with pytest.raises(UsageError, match=r"folders named like the 3 classes .*, got 'wolf'"):
        evaluate_student(student, folder=tmp_path / "p")
    shutil.rmtree(tmp_path / "p" / "wolf")
    assert evaluate_student(student, folder=tmp_path / "p").images == 8


def test_evaluate_shows_what_the_record_says_beside(bench, capsys, tmp_path):
    bench.run("kd")
    assert cli.main(["evaluate", "kd", "--work-dir", str(bench.folder / "work"), "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tiny, test, 20 images"
    for line in lines[3:7]:
        _, measured, recorded, _ = line.split()
        assert measured == recorded
    assert len(lines) == 7


def test_data_that_has_changed_is_told(bench, monkeypatch):
    bench.run("scratch")
    student = load_student("scratch", work_dir=bench.folder / "work")
    change(student.folder / "student.json", data={"type": "tiny", "options": {"count": 20}})
    measured = evaluate_student(load_student(student.folder))
    assert "the data set has changed" in str(measured)
    change(student.folder / "student.json", data={"type": "tiny", "options": {"classes": 3}})
    with pytest.raises(UsageError, match="the classes of data set 'tiny' are not the student's any more"):
        evaluate_student(load_student(student.folder))


def test_a_student_of_a_plug_in_asks_for_its_file(bench):
    bench.run("scratch")
    folder = load_student("scratch", work_dir=bench.folder / "work").folder
    change(folder / "student.json", network={"type": "my_net", "options": {}})
    with pytest.raises(UsageError, match="If a plug-in brings it, name its file by --plugin"):
        load_student(folder)


def test_a_student_whose_code_has_changed_is_told_of_and_not_exported(bench, tmp_path, monkeypatch, capsys):
    own = tmp_path / "ownnet_of_a_user.py"
    own.write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    bench.run("scratch", student="module:ownnet_of_a_user.Net")
    work = bench.folder / "work"
    student = load_student("scratch", work_dir=work)
    assert student.changed is None
    # As a new start of Python finds it.
    monkeypatch.delitem(sys.modules, "ownnet_of_a_user")
    own.write_text(NET.replace("return self.fc", "return -self.fc"))
    importlib.invalidate_caches()
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
    student = load_student("scratch", work_dir=work)
    assert "'module:ownnet_of_a_user.Net' is not what it was when" in student.changed
    assert student.changed in str(evaluate_student(student))
    with pytest.raises(UsageError, match=r"Train it again, or bring the code back as it was\."):
        export_student(student, "safetensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    picture = tmp_path / "a.png"
    Image.new("L", (8, 8)).save(picture)
    assert cli.main(["predict", "scratch", str(picture), "--work-dir", str(work)]) == 0
    assert "is not what it was" in capsys.readouterr().err


def test_the_validation_images_are_taken_off_again(bench):
    bench.run("scratch", val_fraction=0.25)
    measured = evaluate_student(load_student("scratch", work_dir=bench.folder / "work"))
    assert measured.remarks == ()
    assert measured.metrics == measured.recorded


def stretched(classes):
    """Give a data set from outside, whose `fit` is its own affair."""

    def load(root: Path | None, *, fit: Literal["pad", "stretch"] = "pad") -> Dataset:
        """Load.

        Args:
            root: of no use.
            fit: ours.
        """
        data = kdzoo.from_arrays(*pictures(12), *pictures(6))
        return Dataset("stretched", data.train, data.test, classes)

    return load


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_an_option_named_fit_of_somebody_elses_data_is_not_ours(tmp_path, fit, registries_as_before):
    DATASETS.register("stretched")(stretched(CLASSES))
    kdzoo.run(data=f"stretched:fit={fit}", methods="scratch", student="resnet8", epochs=1, work_dir=tmp_path,
              device="cpu", threads=1, cfg_options={"recipe.batch_size": 6})  # fmt: skip
    student = load_student("scratch", work_dir=tmp_path)
    assert student.sheet.pictures["fit"] == "crop"
    assert evaluate_student(student).metrics == student.record.epochs[-1]["test"]


def test_what_a_sheet_cannot_say_is_told_before_training(tmp_path, registries_as_before):
    DATASETS.register("stretched")(stretched(("a" * 1001, "b", "c")))
    with pytest.raises(UsageError, match=r"classes\[0\] must be a text of 1 to 1000 characters"):
        kdzoo.run(data="stretched", methods="scratch", student="resnet8", epochs=1, work_dir=tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_folder_and_a_data_root_are_too_much(runs, tmp_path):
    student = load_student("scratch", work_dir=runs / "zoo")
    with pytest.raises(UsageError, match=r"--folder is measured, or the data set in --data-root"):
        evaluate_student(student, folder=runs / "pictures", data_root=tmp_path)


NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.conv, self.fc = nn.LazyConv2d(4, 3), nn.LazyLinear(num_classes)

    def forward(self, images):
        return self.fc(self.conv(images).relu().mean((2, 3)))
"""
