"""`kdzoo work`: what is listed is what is there, and what is removed is what was named and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from tinyzoo import Bench

from kdzoo import cli
from kdzoo.checks import UsageError
from kdzoo.results.holdings import find_things
from kdzoo.results.store import read_records
from kdzoo.results.words import sized
from kdzoo.training.member import Member

TEACHER = "artifacts/teacher-resnet8-0123abcd"
BANK = "banks/tiny-teacher"
VIEW = f"{BANK}/logits-00aa11bb/view-000000"
GOING = "runs/tiny/tiny_student-e2-11112222/0/dkd-33334444"
DONE = "runs/tiny/tiny_student-e2-11112222/0/kd-55556666"
FILES = {
    f"{TEACHER}/settings.json": 2,
    f"{TEACHER}/weights.safetensors": 20_000,
    f"{TEACHER}/.lock": 0,
    "artifacts/autoencoder-small-89abcdef/checkpoint-000007-00000000.safetensors": 9_000,
    f"{BANK}/settings.json": 2,
    f"{VIEW}/rows": 50_000,
    f"{VIEW}/.lock": 0,
    "banks/another/rows": 4_000,
    f"{GOING}/checkpoint-000003-00000120.safetensors": 30_000,
    f"{GOING}/checkpoint-000003-00000000.safetensors": 30_000,
    f"{GOING}/.lock": 0,
    f"{DONE}/record.json": 2,
    f"{DONE}/student.safetensors": 10_000,
    f"{DONE}/checkpoint-000002-00000000.safetensors": 5_000,
    f"{DONE}/.lock": 0,
    "leaderboard.md": 700,
}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work directory made by hand, in the folder where the command is given."""
    monkeypatch.chdir(tmp_path)
    for name, size in FILES.items():
        path = tmp_path / "work_dirs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}" if size == 2 else bytes(size))
    return Path("work_dirs")


def left(work: Path) -> set[str]:
    return {str(path.relative_to(work)) for path in work.rglob("*") if path.is_file()}


def taken(folder: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str], list[str]]:
    capsys.readouterr()
    status = cli.main(["work", *words])
    said = capsys.readouterr()
    return status, said.out.splitlines(), said.err.splitlines()


def removed(capsys: pytest.CaptureFixture[str], work: Path, *words: str) -> set[str]:
    before = left(work)
    status, said, faults = answer(capsys, "rm", *words)
    assert (status, faults) == (0, []), (said, faults)
    return before - left(work)


def files(*folders: str) -> set[str]:
    return {name for name in FILES if name.startswith(tuple(f"{folder}/" for folder in folders))}


def test_everything_is_listed_with_the_room_that_it_takes(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"teacher": "resnet8", "key": "ab" * 32, "views": 3, "more": {"nested": 1}}
    (work / BANK / "settings.json").write_text(json.dumps(settings))
    status, said, faults = answer(capsys, "ls")
    assert (status, faults) == (0, [])
    rows = {line.split()[0]: line for line in said if line.startswith("  ")}
    assert set(rows) == {
        TEACHER, "artifacts/autoencoder-small-89abcdef", BANK, "banks/another", GOING, DONE,
        "runs/tiny/tiny_student-e2-11112222",
    }  # fmt: skip
    assert rows[TEACHER].endswith("used by no finished run here")
    assert rows["artifacts/autoencoder-small-89abcdef"].endswith("after epoch 7")
    assert rows[GOING].endswith("after epoch 3, step 120")
    assert rows[DONE].endswith("left over by what is finished")
    assert rows["runs/tiny/tiny_student-e2-11112222"].endswith("1 run")
    assert rows[BANK].endswith("teacher resnet8, key abababab, views 3")
    assert sized(taken(work / BANK)) in rows[BANK]
    every = sum(taken(work / folder) for folder in ("artifacts", "banks", "runs"))
    assert said[0] == f"work_dirs: {sized(every)}"
    assert "teacher banks: " + sized(taken(work / "banks")) in said


def test_finished_runs_are_listed_one_by_one_on_request(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, said, _ = answer(capsys, "ls", "-v")
    assert any(line.split()[:1] == [DONE] and line.endswith("finished") for line in said)


def test_a_sparse_file_counts_as_what_it_takes(work: Path) -> None:
    with open(work / VIEW / "rows", "r+b") as file:
        file.truncate(10**9)
    (bank,) = [t for t in find_things(work) if t.name == BANK]
    assert bank.size == taken(work / BANK) < 10**6


@pytest.mark.parametrize(
    ("words", "gone"),
    [
        (["banks"], files("banks")),
        (["artifacts"], files("artifacts")),
        (["checkpoints"], files(GOING, "artifacts/autoencoder-small-89abcdef")
         | {f"{DONE}/checkpoint-000002-00000000.safetensors"}),
        (["tiny-teacher"], files(BANK)),
        ([BANK, "banks/another"], files("banks")),
        (["teacher-*"], files(TEACHER)),
        (["*/dkd-*"], files(GOING)),
        ([f"work_dirs/{TEACHER}"], files(TEACHER)),
        (["banks/tiny-teacher/"], files(BANK)),
        (["dkd-33334444", "dkd-*"], files(GOING)),
        ([DONE, "--finished"], files(DONE)),
        (["runs", "--finished"], files("runs")),
    ],
    ids=lambda value: " ".join(sorted(value)),
)  # fmt: skip
def test_what_is_named_goes_and_nothing_else(
    work: Path, capsys: pytest.CaptureFixture[str], words: list[str], gone: set[str]
) -> None:
    assert gone
    before = left(work)
    status, would, _ = answer(capsys, "rm", *words, "--dry-run")
    assert (status, left(work)) == (0, before)
    room = sum((work / name).lstat().st_blocks * 512 for name in gone)
    assert would[-1] == f"{sized(room)} would be freed"
    status, said, faults = answer(capsys, "rm", *words)
    assert (status, faults) == (0, [])
    assert said[-1] == f"{sized(room)} freed"
    assert [line.replace("would remove", "removed") for line in would[:-1]] == said[:-1]
    assert before - left(work) == gone
    assert all((work / name).parent.exists() == bool(list((work / name).parent.glob("*"))) for name in gone)


def test_nothing_to_remove_is_no_mistake(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert removed(capsys, work, "banks")
    assert answer(capsys, "rm", "banks") == (0, ["nothing to remove"], [])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["teacher-resnet8-0123abce"], "Did you mean 'teacher-resnet8-0123abcd'"),
        (["bank"], "Did you mean 'banks'"),
        (["leaderboard.md"], "no thing 'leaderboard.md'"),
        (["/etc"], "must be inside of the work directory work_dirs, got '/etc'"),
        (["artifacts/../../work_dirs2"], "must be inside of"),
        (["."], "must be inside of"),
        (["work_dirs"], "must be inside of"),
        ([DONE], "names 1 finished run, whose records"),
        (["*"], "Add --finished"),
        (["banks", "--work-dir", "nowhere"], "no work directory nowhere"),
    ],
)
def test_mistake_is_answered_in_a_line_and_removes_nothing(
    work: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    before = left(work)
    # What is right beside it stays, too: all mistakes are found first.
    status, said, faults = answer(capsys, "rm", "checkpoints", *words)
    assert (status, said, len(faults)) == (2, [], 1)
    assert expected in faults[0]
    assert left(work) == before


def test_no_work_directory_is_a_mistake_of_the_list_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, said, faults = answer(capsys, "ls")
    assert (status, said, len(faults)) == (2, [], 1)
    assert "no work directory work_dirs" in faults[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("lock", "name"), [(f"{VIEW}/.lock", BANK), (f"{GOING}/.lock", GOING)])
def test_what_a_running_process_holds_stays_and_the_rest_goes(
    work: Path, capsys: pytest.CaptureFixture[str], lock: str, name: str
) -> None:
    with FileLock(work / lock):
        for dry in (["--dry-run"], []):
            status, said, faults = answer(capsys, "rm", "banks", "checkpoints", *dry)
            assert status == 1
            assert faults == [f"{name}: a running process uses it, so it stays."]
            assert not any(name in line for line in said)
        assert left(work) & files("banks", GOING) == files(name)
    assert removed(capsys, work, name) == files(name)


def test_links_are_neither_followed_nor_reached_through(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "elsewhere" / "bank"
    outside.mkdir(parents=True)
    (outside / "precious").write_text("of somebody")
    (work / "banks" / "linked").symlink_to(outside)
    (work / "artifacts" / "again").symlink_to((work / TEACHER).absolute())
    for word, place in (("linked", outside), ("again", (work / TEACHER).absolute())):
        status, _, faults = answer(capsys, "rm", word)
        assert (status, len(faults)) == (2, 1)
        assert f"reached through a link, and lies in {place}" in faults[0]
    for inner in (work / VIEW / ".lock", work / BANK / "file", work / BANK / "folder"):
        inner.unlink(missing_ok=True)
        inner.symlink_to(outside if inner.name == "folder" else outside / "precious")
    removed(capsys, work, "tiny-teacher")
    assert not os.path.lexists(work / BANK)
    assert (outside / "precious").read_text() == "of somebody"


def test_no_torch_is_imported(work: Path) -> None:
    code = (
        "import sys; from kdzoo.cli import main; main(['work', 'ls']); main(['work', 'rm', 'banks']); "
        "sys.exit(sorted({'torch', 'mmengine', 'numpy'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_bank_is_no_record(work: Path) -> None:
    (work / DONE / "record.json").unlink()
    assert read_records([work]) == read_records([work / "banks"]) == []


def test_a_real_run_is_listed_interrupted_freed_and_trained_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Member.step

    def interrupted(self: Member, batch: Any, guide: Any, progress: Any) -> None:
        if (self.name, progress.epoch) == ("at", 1):
            raise KeyboardInterrupt
        step(self, batch, guide, progress)

    monkeypatch.setattr(Member, "step", interrupted)
    place = ["--work-dir", str(bench.folder / "work")]
    assert cli.main(bench.command("scratch,kd")) == 0
    assert cli.main(bench.command("at")) == 130
    _, said, _ = answer(capsys, "ls", "-v", *place)
    assert sum(line.endswith("finished") for line in said) == 2
    assert sum(line.endswith("after epoch 1") and "/0/at-" in line for line in said) == 1
    assert sum(line.endswith("used by 1 run of tiny") and "teacher-resnet8-" in line for line in said) == 1
    assert said[0].endswith(sized(taken(bench.folder / "work") - taken_by_page(bench)))

    before = bench.contents()
    assert removed(capsys, bench.folder / "work", "checkpoints", "artifacts", *place)
    assert bench.contents() == before
    monkeypatch.undo()
    assert bench.run("scratch,kd,at").rows
    undisturbed = bench.run("at", work="other")
    assert bench.contents()["at", 0] == bench.contents("other")["at", 0]
    assert undisturbed.records


def taken_by_page(bench: Bench) -> int:
    return (bench.folder / "work" / "leaderboard.md").lstat().st_blocks * 512


def test_find_things_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--work-dir"):
        find_things(tmp_path / "none")


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (1000, "1.0 kB"), (999_949, "999.9 kB"),
     (999_950, "1.0 MB"), (44_812_345, "44.8 MB"), (3_900_000_000, "3.9 GB"), (10**15, "1,000,000.0 GB")],
)  # fmt: skip
def test_sizes_are_told_in_units_of_a_thousand(count: int, words: str) -> None:
    assert sized(count) == words
