"""What a crash or an accident does to the teacher bank's files is found, and never read as numbers."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from banks import ALL, ENTRY, SAMPLES, VIEW, batches, fill, marker, right, row_values

from kdzoo.training import bank_files, bank_io


def test_what_was_left_incomplete_by_another_boot_is_begun_anew(
    make_bank: Any, said: list[str], monkeypatch: Any
) -> None:
    first = make_bank()
    fill(first, VIEW + 1)
    fill(first, seal=False)
    first.close()
    monkeypatch.setattr(bank_files, "boot", lambda: "another")
    second = make_bank()
    assert second.read(ENTRY, VIEW, ALL[:4]) is None
    assert second.rows(ENTRY, VIEW) == 0
    assert right(second, VIEW + 1)
    assert second.write(ENTRY, VIEW, ALL[:4], row_values(ALL[:4], VIEW))
    assert second.rows(ENTRY, VIEW) == 4
    [message] = said
    assert "was not complete when the machine was started anew" in message
    assert right(second, indices=ALL[:4])


def test_where_the_system_names_no_boot_a_process_trusts_itself_alone(monkeypatch: Any) -> None:
    def missing(path: Path) -> str:
        raise FileNotFoundError(str(path))

    monkeypatch.setattr(Path, "read_text", missing)
    ask = bank_io.boot.__wrapped__
    assert ask() != ask()
    assert bank_io.boot() == bank_io.boot()


def shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def lengthen(path: Path) -> None:
    os.truncate(path, path.stat().st_size + 64)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64
    path.write_bytes(content)


def garble(path: Path) -> None:
    path.write_bytes(b"\xff{")


def nest(path: Path) -> None:
    path.write_bytes(b"[" * 50_000)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def repeat(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:16] * 2 + content[32:])


def lie(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"samples": SAMPLES - 1}))


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("rows", shorten), ("rows", lengthen), ("rows", empty), ("rows", os.unlink), ("rows", flip),
        ("order", shorten), ("order", empty), ("order", os.unlink), ("order", flip), ("order", repeat),
        ("view.json", garble), ("view.json", nest), ("view.json", empty), ("view.json", lie),
        ("view.json", os.unlink),
    ],
)  # fmt: skip
def test_damaged_files_are_never_wrong_numbers_and_are_made_again(
    make_bank: Any, said: list[str], sealed: bool, name: str, damage: Callable[[Path], None]
) -> None:
    first = make_bank()
    fill(first, seal=sealed)
    first.close()
    damage(first.place(ENTRY, VIEW) / name)
    second = make_bank()
    for indices in batches():
        assert second.read(ENTRY, VIEW, indices) is None or right(second, indices=indices)
    fill(second)
    assert right(second)
    assert right(make_bank())
    assert marker(second)["complete"] is True
    # Of files that are gone there is nothing to tell, nor of an order that lacks its end while it is written.
    quiet = damage is os.unlink and name == "view.json"
    quiet |= not sealed and name == "order" and damage in (shorten, empty)
    assert len(said) <= 1 if not sealed else len(said) == (not quiet)


def test_a_spoilt_view_is_read_again_once_another_process_has_made_it(
    make_bank: Any, said: list[str]
) -> None:
    first, second = make_bank(), make_bank()
    fill(first)
    flip(first.place(ENTRY, VIEW) / "rows")
    assert second.read(ENTRY, VIEW, ALL) is None
    assert second.read(ENTRY, VIEW, ALL) is None
    assert len(said) == 1
    assert first.read(ENTRY, VIEW, ALL) is None
    fill(first)
    assert right(second)


@pytest.mark.parametrize("what", ["entry", "view", "rows", "order", "view.json", ".lock"])
def test_links_are_not_followed(make_bank: Any, said: list[str], tmp_path: Path, what: str) -> None:
    first = make_bank()
    fill(first, seal=what != ".lock")
    first.close()
    view = first.place(ENTRY, VIEW)
    path = {"entry": view.parent, "view": view}.get(what, view / what)
    outside = tmp_path / "outside"
    path.rename(outside)
    path.symlink_to(outside)
    before = {p: p.read_bytes() for p in outside.rglob("*") if p.is_file()} or outside.read_bytes()
    second = make_bank()
    assert second.read(ENTRY, VIEW, ALL) is None
    second.write(ENTRY, VIEW, ALL[:4], row_values(ALL[:4], VIEW + 1))
    after = {p: p.read_bytes() for p in outside.rglob("*") if p.is_file()} or outside.read_bytes()
    assert after == before
    assert said


def test_errors_that_say_nothing_of_the_files_destroy_nothing(
    make_bank: Any, said: list[str], monkeypatch: Any
) -> None:
    """As too many open files: the view must still be there afterwards."""
    first = make_bank()
    fill(first)
    first.close()

    def refuse(path: Path, flags: int = 0) -> int:
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(bank_files, "open_file", refuse)
    second = make_bank()
    assert second.read(ENTRY, VIEW, ALL) is None
    assert not second.write(ENTRY, VIEW, ALL, row_values(ALL, VIEW))
    monkeypatch.undo()
    assert right(make_bank())
    assert len(said) == 2
