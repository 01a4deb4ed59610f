"""Law 7: whatever lies where data is expected, it is read as data; nothing in it is executed."""

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tinyzoo import Bench

from kdzoo import cli


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.marker,)


def as_pickle(bomb: Bomb) -> bytes:
    return pickle.dumps({"state_dict": bomb, "schema": 1})


def as_torch(bomb: Bomb) -> bytes:
    file = io.BytesIO()
    torch.save({"state_dict": {"weight": torch.zeros(2), "bomb": bomb}}, file)
    return file.getvalue()


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "executed"


HOSTILE = pytest.mark.parametrize("form", [as_pickle, as_torch])


@HOSTILE
def test_bombs_explode_when_they_are_trusted(form: Callable[[Bomb], bytes], marker: Path) -> None:
    """Guards the tests below."""
    torch.load(io.BytesIO(form(Bomb(marker))), weights_only=False) if form is as_torch else pickle.loads(
        form(Bomb(marker))
    )
    assert marker.is_dir()


@HOSTILE
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_teacher_checkpoint(
    bench: Bench, form: Callable[[Bomb], bytes], suffix: str, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = bench.folder / f"teacher{suffix}"
    given.write_bytes(form(Bomb(marker)))
    assert cli.main(bench.command("scratch,kd", "--teacher-checkpoint", str(given))) == 2
    answer = capsys.readouterr()
    assert not marker.exists()
    assert not (bench.folder / "work").exists()
    assert len(answer.err.splitlines()) <= 2
    assert str(given) in answer.err
    assert "must hold tensors alone" in answer.err
    # torch's own message advises to trust the file.
    assert "weights_only=False" not in answer.err.replace("weights_only=True", "")


@HOSTILE
def test_checkpoint_of_a_member(
    bench: Bench,
    form: Callable[[Bomb], bytes],
    marker: Path,
    capsys: pytest.CaptureFixture[str],
    together: dict,
) -> None:
    cli.main(bench.command("scratch"))
    folder = next((bench.folder / "work").glob("runs/*/*/*/scratch*"))
    (folder / "record.json").unlink()
    hostile = folder / "checkpoint-000001-00000000.safetensors"
    hostile.write_bytes(form(Bomb(marker)))
    capsys.readouterr()
    assert cli.main(bench.command("scratch")) == 0
    assert not marker.exists()
    assert f"checkpoint {hostile} is damaged and passed over" in capsys.readouterr().out
    assert bench.contents() == {("scratch", 0): together["scratch", 0]}


@HOSTILE
def test_record(
    bench: Bench, form: Callable[[Bomb], bytes], marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(bench.command("scratch"))
    path = next((bench.folder / "work").rglob("record.json"))
    path.write_bytes(form(Bomb(marker)))
    capsys.readouterr()
    for command in (bench.command("scratch"), ["leaderboard", str(bench.folder / "work")]):
        assert cli.main(command) == 2
        answer = capsys.readouterr().err
        assert not marker.exists()
        assert str(path) in answer
        assert len(answer.splitlines()) <= 2


@HOSTILE
@pytest.mark.parametrize(
    ("name", "status"), [("settings.json", 1), ("weights.safetensors", 1), ("outputs.safetensors", 0)]
)
def test_artifact(
    bench: Bench, form: Callable[[Bomb], bytes], name: str, status: int, marker: Path,
    capsys: pytest.CaptureFixture[str], together: dict,
) -> None:  # fmt: skip
    cli.main(bench.command("kd"))
    next((bench.folder / "work").rglob("record.json")).unlink()
    path = next((bench.folder / "work").glob(f"artifacts/teacher*/{name}"))
    path.write_bytes(form(Bomb(marker)))
    capsys.readouterr()
    assert cli.main(bench.command("kd", "--dry-run")) == 0
    assert not marker.exists()
    assert cli.main(bench.command("kd")) == status
    answer = capsys.readouterr()
    assert not marker.exists()
    if status:
        assert f"artifact {path.parent} is damaged" in answer.err
        assert "Delete that folder" in answer.err
        assert len([line for line in answer.err.splitlines() if line]) <= 2
    else:
        assert f"{path} is damaged" in answer.out
        assert bench.contents() == {("kd", 0): together["kd", 0]}
