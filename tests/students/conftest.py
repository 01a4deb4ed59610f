"""Finished runs of small students, one of each kind, for all tests of this folder."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kdzoo
from kdzoo import plugins
from kdzoo.registry import DATASETS, MODELS
from kdzoo.students import export_student, load_student

NETWORKS = {
    "zoo": "resnet8",
    "timm": "timm:test_resnet",
    "transformer": "timm:test_vit",
    "torchvision": "torchvision:resnet18",
}
CLASSES = ("cat", "dog", "cow")


def pictures(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Give images whose brighter channel tells the class."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    images = draw.integers(0, 100, (count, 32, 32, 3), np.uint8)
    images[np.arange(count), :, :, labels] += 150
    return images, labels


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory with a finished run of each kind, and pictures in folders beside it."""
    folder = tmp_path_factory.mktemp("students")
    data = kdzoo.from_arrays(*pictures(48), *pictures(12, seed=1), classes=CLASSES, name="pets")
    for kind, network in NETWORKS.items():
        results = kdzoo.run(
            data=data, methods="scratch", student=network, epochs=2, work_dir=folder / kind, threads=1,
            device="cpu", cfg_options={"recipe.batch_size": 16},
        )  # fmt: skip
        assert results.records[0].status == "done"
    images, labels = pictures(12, seed=1)
    for place, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / "pictures" / CLASSES[label] / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


@pytest.fixture(scope="session")
def exported(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with a student of a kind in all forms: exporters take seconds, and many tests read what they
    write."""

    @cache
    def folder_of(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(f"exported_{kind}")
        student = load_student("scratch", work_dir=runs / kind)
        for form in ("safetensors", "onnx", "torch"):
            lines = export_student(student, form, folder)
            assert form == "safetensors" or "largest difference from the student's" in lines[0]
        return folder

    return folder_of


@pytest.fixture
def registries_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(plugins, "_files", {})
    for registry in (MODELS, DATASETS):
        registry.names()
        monkeypatch.setattr(registry, "_module_dict", dict(registry.module_dict))


@pytest.fixture
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Exports are written to the current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
