"""Made-up records: `make_record` gives a sound one, changed where a test asks."""

import copy
import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from kdzoo.results.record import Record, accuracy_of


def digits(name: object) -> str:
    return hashlib.sha256(repr(name).encode()).hexdigest()


TEACHER = {
    "key": digits("teacher"),
    "network": "resnet50",
    "origin": "trained",
    "seed": 0,
    "score": {"top1": 76.28, "top5": 93.1, "nll": 0.91, "ece": 4.5},
    "settings": {"epochs": 3, "seed": 0},
}
AUTOENCODER = {
    "key": digits("autoencoder"),
    "network": "cae",
    "origin": "trained",
    "seed": 0,
    "score": {"mse": 0.0123},
    "settings": {"optimizer": {"type": "SGD", "lr": 0.1}, "epochs": 3, "seed": 0},
}
SETTINGS = {
    "data": {
        "name": "cifar100",
        "fingerprint": digits("cifar100"),
        "classes": 100,
        "train": 50000,
        "validation": 0,
        "test": 10000,
        "mean": [0.507, 0.487, 0.441],
        "std": [0.267, 0.256, 0.276],
    },
    "student": {"name": "resnet18"},
    "epochs": 3,
    "batch_size": 256,
    "optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0005},
    "param_scheduler": [{"type": "MultiStepLR", "milestones": [60, 120, 160], "gamma": 0.2}],
    "views": [{"type": "flip"}, {"type": "rotation", "degrees": 15}],
    "precision": "float32",
    "val_fraction": 0,
}


def epochs_of(*accuracies: float, validation: tuple[float, ...] = ()) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for index, top1 in enumerate(accuracies):
        metrics = {"top1": top1, "top5": min(100.0, top1 + 15), "nll": 1.0 + index, "ece": 5.0}
        found.append({"epoch": index + 1, "lr": 0.1, "train": {"loss": 2.5, "ce": 2.5}, "test": metrics})
        if validation:
            found[-1]["validation"] = {**metrics, "top1": validation[index]}
    return found


@pytest.fixture
def make_record() -> Callable[..., Record]:
    return record_of


def record_of(
    method: str = "kd", seed: int = 0, accuracies: tuple[float, ...] = (60.0, 77.5, 76.9), **changes: Any
) -> Record:
    """Make a sound record of a method; `changes` are fields; settings and data are merged in."""
    distiller, _, source = method.partition("+")
    if method == "reffakd":
        distiller, source = "kd", "reffakd"
    settings = copy.deepcopy(SETTINGS) | changes.pop("settings", {})
    settings["data"] = settings["data"] | changes.pop("data", {})
    settings.setdefault(
        "method",
        {
            "distiller": distiller,
            "options": {},
            "version": 1,
            "source": source or None,
            "source_options": {},
            "source_version": 1 if source else None,
        },
    )
    artifacts: dict[str, Any] = {}
    if source == "reffakd":
        artifacts = {"autoencoder": AUTOENCODER}
    elif method != "scratch":
        artifacts = {"teacher": TEACHER}
    content = {
        "schema": 1,
        "benchmark": "cifar100-resnet50-resnet18",
        "protocol": {"name": "table7", "hash": digits("table7")},
        "seed": seed,
        "method": method,
        "status": "done",
        "settings": settings,
        "artifacts": copy.deepcopy(artifacts),
        "epochs": epochs_of(*accuracies),
        "parameters": 11_220_132,
        "flops": 556_000_000,
        "notes": [],
        "timing": {"seconds_per_epoch": 12.5},
        "environment": {"device": "cpu", "python": "3.11"},
    } | changes
    content.setdefault("accuracy", accuracy_of(content["epochs"]))
    what = {name: value for name, value in content.items() if name not in ("timing", "environment")}
    content.setdefault("key", digits(what))
    return Record(**content)
