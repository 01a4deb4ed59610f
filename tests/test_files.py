import errno
import json
import os
from pathlib import Path

import pytest

from kdzoo.checks import KdzooError, StorageError
from kdzoo.files import write_atomic, write_json


def refuse(error: BaseException):
    def failing(*args: object, **kwargs: object) -> None:
        raise error

    return failing


def test_content_is_replaced_whole_and_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    write_atomic(path, b"first, and longer")
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert os.listdir(path.parent) == ["file.bin"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("before", [b"the old content", None])
def test_a_full_disk_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch, call, before):
    path = tmp_path / "record.json"
    if before is not None:
        path.write_bytes(before)
    monkeypatch.setattr(os, call, refuse(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(StorageError) as caught:
        write_atomic(path, b"twelve bytes")
    monkeypatch.undo()
    message = str(caught.value)
    assert isinstance(caught.value, KdzooError)
    assert f"cannot write {path} (12 bytes): No space left on device." in message
    assert "--work-dir" in message
    assert "\n" not in message
    assert isinstance(caught.value.__cause__, OSError)
    assert os.listdir(tmp_path) == ([] if before is None else ["record.json"])
    assert before is None or path.read_bytes() == before


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_interruption_in_the_middle_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch, call):
    path = tmp_path / "record.json"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, call, refuse(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["record.json"]


def test_content_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append("fsync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    write_atomic(tmp_path / "file", b"content")
    # The folder last: the new name must survive a power cut as well.
    assert calls == ["fsync", "replace", "fsync"]


def test_a_place_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"cannot write .*file/below/record"):
        write_atomic(tmp_path / "file" / "below" / "record.json", b"")


def test_json_keeps_its_order_and_its_letters(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"z": 1, "a": ["±", None, 0.1]})
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {"z": 1, "a": ["±", None, 0.1]}
    assert text.startswith('{\n  "z": 1,')
    assert "±" in text
    assert text.endswith("}\n")


@pytest.mark.parametrize("content", [float("nan"), {"a": [float("inf")]}, {"a": Path()}])
def test_what_is_no_json_is_not_written(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises((ValueError, TypeError)):
        write_json(path, content)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]
