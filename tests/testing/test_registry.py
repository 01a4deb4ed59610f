"""Whatever is registered keeps its contract: a test for each rule and each thing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdzoo.registry import DISTILLERS, SOURCES
from kdzoo.testing import distillers, sources
from kdzoo.testing.contract import Check

# Options that sources must be given; {folder} has the files that `files` writes.
GIVEN: dict[str, list[dict[str, Any]]] = {
    "file": [
        {"path": "{folder}/by_class.npy", "kind": "probabilities"},
        {"path": "{folder}/by_class.npy", "kind": "scores"},
        {"path": "{folder}/by_image.npy", "kind": "probabilities"},
    ],
    "ensemble": [{"teachers": "teacher/resnet8"}, {"teachers": "resnet8/student", "mean": "scores"}],
    "mixture": [
        {"teacher": "0.5", "reffakd": "0.5"},
        {"uniform": "0.3", "permuted": "0.7", "permuted.gamma": "2"},
        {"file": "0.5", "tfkd_self": "0.5", "file.path": "{folder}/by_image.npy", "file.kind": "scores"},
    ],
}
RUNS = [(name, place) for name in SOURCES.names() for place in range(len(GIVEN.get(name, [{}])))]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Soft labels for 4 classes and 24 training images."""
    folder = tmp_path_factory.mktemp("soft_labels")
    draw = np.random.default_rng(0)
    for name, rows in (("by_class", 4), ("by_image", 24)):
        values = draw.random((rows, 4))
        np.save(folder / f"{name}.npy", values / values.sum(axis=1, keepdims=True))
    return folder


def the(rule: str, checks: list[Check]) -> Callable[[], None]:
    """Find a rule by its name."""
    (check,) = (check for check in checks if str(check) == rule)
    return check


@pytest.mark.parametrize("rule", [rule.__name__ for rule in distillers.RULES])
@pytest.mark.parametrize("name", DISTILLERS.names())
def test_distiller_keeps_the_contract(name: str, rule: str) -> None:
    the(rule, distillers.distiller_checks(name))()


@pytest.mark.parametrize("rule", [rule.__name__ for rule in sources.RULES])
@pytest.mark.parametrize(("name", "run"), RUNS, ids=lambda value: str(value))
def test_source_keeps_the_contract(name: str, run: int, rule: str, files: Path) -> None:
    given = GIVEN.get(name, [{}])[run]
    options = {option: value.format(folder=files) for option, value in given.items()}
    the(rule, sources.source_checks(name, options=options))()


def test_the_zoo_is_found() -> None:
    assert {"at", "dkd", "fitnet", "kd", "kdsvd", "pkt", "rkd", "scratch"} <= set(DISTILLERS.names())
    assert {"file", "label_smoothing", "reffakd", "teacher", "teacher_mean"} <= set(SOURCES.names())
    assert set(GIVEN) <= set(SOURCES.names())
