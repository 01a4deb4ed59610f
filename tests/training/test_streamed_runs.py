"""Whole runs of pictures that stay in their files."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tinyzoo import Bench

from kdzoo.checks import KdzooError
from kdzoo.training.member import Member

CONFIG = "data = dict(type='image_folder', size=16, stream=True)\nviews = dict(crop_scale=0.3, flip=True)\n"

ONE = {"cfg_options": {"recipe.epochs": 1}}


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDZOO_DATA", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for name in ("ant", "bee", "cat"):
            place = tmp_path / "photos" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(draw.integers(0, 256, (20, 24, 3), np.uint8)).save(place / f"{number}.bmp")
    return tmp_path / "photos"


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench(CONFIG)


def test_no_process_is_left_and_nothing_is_complained_of(
    bench: Bench, photos: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A teacher and two seeds, each with an evaluation after every epoch."""
    counts, real = [], Member.step

    def step(*given: object) -> None:
        counts.append(len(multiprocessing.active_children()))
        real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(Member, "step", step)
    found = bench.run("kd", seeds=2, workers=2, data_root=photos, **ONE)
    assert len(found.records) == 2
    assert set(counts) == {2}
    assert multiprocessing.active_children() == []
    assert capfd.readouterr() == ("", "")


def test_workers_and_a_restart_change_no_number(bench: Bench, photos: Path) -> None:
    bench.run("scratch", data_root=photos, workers=0, **ONE)
    bench.run("scratch", "other", data_root=photos, workers=2, **ONE)
    assert bench.contents() == bench.contents("other")


def test_a_run_whose_process_died_ends_in_a_line_and_goes_on(
    bench: Bench, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Member.step

    def step(*given: object) -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGKILL)
        real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(Member, "step", step)
    with pytest.raises(KdzooError, match="processes that decode pictures one died"):
        bench.run("scratch", data_root=photos, workers=1, cfg_options={"recipe.batch_size": 2})
    assert multiprocessing.active_children() == []
    monkeypatch.setattr(Member, "step", real)
    assert len(bench.run("scratch", data_root=photos, workers=1).records) == 1


def test_pictures_that_changed_are_trained_on(bench: Bench, photos: Path) -> None:
    first = bench.run("scratch", data_root=photos, **ONE).records[0]
    assert bench.run("scratch", data_root=photos, **ONE).records[0].key == first.key
    (told,) = first.settings["data"]["warnings"]
    assert "resized to 16x16 as they are decoded: the short side brought to 18" in told
    for path in photos.rglob("*.bmp"):
        with Image.open(path) as picture:
            inverted = Image.fromarray(255 - np.asarray(picture))
        inverted.save(path)
    assert bench.run("scratch", data_root=photos, **ONE).records[0].key != first.key
