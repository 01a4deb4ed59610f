"""Banks of teachers' outputs."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from banks import SAMPLES

from kdzoo.training.bank import TeacherBank


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def make_bank(tmp_path: Path, said: list[str]) -> Iterator[Callable[..., TeacherBank]]:
    """A function that opens the bank of a test; all are closed at its end."""
    banks: list[TeacherBank] = []

    def opened(folder: Path = tmp_path / "bank", samples: int = SAMPLES, settings: Any = None) -> TeacherBank:
        banks.append(TeacherBank(folder, samples, settings or {"seed": 0}, said.append))
        return banks[-1]

    yield opened
    for bank in banks:
        bank.close()
