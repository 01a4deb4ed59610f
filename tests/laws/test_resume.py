"""Law 3: a run killed and started again ends with the numbers of an undisturbed one, and repeats little."""

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tinyzoo import EPOCHS, STEPS, Bench, contents

from kdzoo import cli
from kdzoo.training import artifacts, checkpoint
from kdzoo.training.cohort import Cohort
from kdzoo.training.reporter import Reporter

KILLED = -9
# Members of one cohort and of another seed, with a teacher, an autoencoder, an adapter and dropout.
METHODS = "kd,noisy,reffakd"

# Schedules that count steps, one on top of the other, and an optimizer with two moments.
BY_STEP = """
recipe["optimizer"] = dict(type="AdamW", lr=0.01, weight_decay=0.05)
recipe["param_scheduler"] = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=4),
    dict(type="MultiStepLR", milestones=[1], gamma=0.3),
    dict(type="CosineAnnealingLR", T_max=2, eta_min=0.001, convert_to_iter_based=True),
]
recipe["epochs"] = 2
"""

# A student from elsewhere, with hooks, batch norm and dropout.
EXTERNAL = """
student["network"] = dict(type="module:toynets.Plain", arguments="width=3")
"""


def steps(log: Path) -> Counter[str]:
    """Count how often each step of each member was begun."""
    return Counter(log.read_text().splitlines()) if log.exists() else Counter()


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Give content and time of every file."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def events_of(children: Any, bench: Bench, command: list[str], **options: Any) -> int:
    """Run undisturbed into the folder "whole" and count the moments at which it could have been killed."""
    log = bench.folder / "whole.log"
    whole = [str(bench.folder / "whole") if part == str(bench.folder / "work") else part for part in command]
    assert children.run(whole, log, **options) == 0, Path(f"{log}.err").read_text()
    return int(Path(f"{log}.events").read_text())


def whole(work: Path) -> None:
    """Hold that what has a name is whole: at no moment is a part of a file seen."""
    for path in work.rglob("*.safetensors"):
        load_file(path)
    for path in work.rglob("*.json"):
        json.loads(path.read_text())


def kill_and_go_on(
    children: Any, bench: Bench, command: list[str], kills: list[int], interval: int, **options: Any
) -> int:
    """Kill at the given event of each start, let the last start end, and hold the number of repeated steps.

    Args:
        children: starts commands.
        bench: whose folder "work" is used.
        command: what to run.
        kills: number of the event at which to kill, one a start.
        interval: steps between two checkpoints of a member.
        options: of the child.

    Returns:
        How many starts were killed; those with fewer events end by themselves.
    """
    before: Counter[str] = Counter()
    killed = 0
    for number, at in enumerate([*kills, None]):
        log = bench.folder / f"start{kills[0]}-{number}.log"
        status = children.run(command, log, kill_at=at, **options)
        assert status in ((0, KILLED) if at else (0,)), Path(f"{log}.err").read_text()
        killed += status == KILLED
        whole(Path(command[command.index("--work-dir") + 1]))
        now = steps(log)
        assert max(now.values(), default=1) == 1
        again = Counter(" ".join(step.split()[:2]) for step in now if step in before)
        assert all(count <= interval for count in again.values()), (again, Path(f"{log}.err").read_text())
        before |= now
    return killed


@pytest.mark.parametrize("draw", range(3))
def test_killed_at_random_moments_equals_undisturbed(
    bench: Bench, children: Any, same: Callable[..., None], draw: int
) -> None:
    """Moments are before and after every step, flush to disk, rename and removal."""
    command = bench.command(METHODS)
    total = events_of(children, bench, command)
    kills = [random.Random(draw).randrange(1, total // 3) for _ in range(3 + draw % 2)]
    killed = kill_and_go_on(children, bench, command, kills, interval=STEPS)
    assert killed >= 2
    same(bench)
    assert len(bench.contents()) == 3


def test_killed_near_every_record_equals_undisturbed(bench: Bench, children: Any) -> None:
    """The last moments of a run write students and records and remove checkpoints: each is cut off once."""
    command = bench.command("scratch,kd+uniform")
    total = events_of(children, bench, command)
    expected = contents(bench.folder / "whole")
    last = 2 * EPOCHS * STEPS * 2
    moments = range(last + 1, total + 1, 11)
    assert len(moments) >= 4
    for moment in moments:
        work = f"cut{moment}"
        cut = [str(bench.folder / work) if part == str(bench.folder / "work") else part for part in command]
        assert kill_and_go_on(children, bench, cut, [moment], interval=STEPS) == 1
        assert contents(bench.folder / work) == expected


@pytest.mark.parametrize("changes", ["", BY_STEP, EXTERNAL])
def test_inside_an_epoch_no_more_than_one_step_is_repeated(
    make_bench: Callable[..., Bench], children: Any, changes: str
) -> None:
    bench = make_bench(changes)
    command = bench.command("scratch,noisy", "--seeds", "2")
    total = events_of(children, bench, command, checkpoint_seconds=0)
    draw = random.Random(7)
    kills = [draw.randrange(total // 12, total // 4) for _ in range(6)]
    killed = kill_and_go_on(children, bench, command, kills, interval=1, checkpoint_seconds=0)
    assert killed >= 3
    assert bench.contents() == contents(bench.folder / "whole")


def test_schedules_by_step_move_the_rate_in_every_step(make_bench: Callable[..., Bench]) -> None:
    """Guards the test above: with these settings a rate that is off by one step is seen."""
    bench = make_bench(BY_STEP)
    epochs = bench.run("scratch").records[0].epochs
    assert len({epoch["lr"] for epoch in epochs}) == len(epochs)


def test_finished_command_trains_nothing_and_touches_no_record(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = bench.command("scratch,kd,reffakd", "--seeds", "2")
    assert cli.main(command) == 0
    before = snapshot(bench.folder / "work" / "runs") | snapshot(bench.folder / "work" / "artifacts")
    table = capsys.readouterr().out

    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("something was trained or made")

    for owner, name in ((Cohort, "train_step"), (artifacts.Foundry, "make"), (checkpoint, "save")):
        monkeypatch.setattr(owner, name, never)
    assert cli.main(command) == 0
    assert snapshot(bench.folder / "work" / "runs") | snapshot(bench.folder / "work" / "artifacts") == before
    assert capsys.readouterr().out.strip() in table


def test_members_added_later_form_their_own_cohort(bench: Bench, same: Callable[..., None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 1, 1)
        with pytest.raises(KeyboardInterrupt):
            bench.run("kd+uniform")
    with pytest.MonkeyPatch.context() as patch:
        cohorts = record_cohorts(patch)
        bench.run("scratch,kd+uniform,kd")
    # The teacher first, on its own.
    assert cohorts == [["teacher"] * STEPS, ["kd+uniform"] * STEPS, ["scratch kd"] * STEPS * EPOCHS]
    before = snapshot(bench.folder / "work" / "runs")
    bench.run("kd,noisy,scratch")
    after = snapshot(bench.folder / "work" / "runs")
    assert {name: after[name] for name in before} == before
    same(bench)
    assert len(bench.contents()) == 4


def interrupt_at(patch: pytest.MonkeyPatch, epoch: int, step: int) -> None:
    """Press Ctrl-C at a step of the students."""
    real = Cohort.train_step

    def train_step(cohort: Cohort, data: tuple[int, int], optim_wrapper: Any = None) -> dict[str, Any]:
        if data == (epoch, step) and cohort.members[0].name != "teacher":
            raise KeyboardInterrupt
        return real(cohort, data, optim_wrapper)

    patch.setattr(Cohort, "train_step", train_step)


def record_cohorts(patch: pytest.MonkeyPatch) -> list[list[str]]:
    """Keep for each cohort in turn the members of every step."""
    real, found, last = Cohort.train_step, [], []

    def train_step(cohort: Cohort, data: tuple[int, int], optim_wrapper: Any = None) -> dict[str, Any]:
        if not last or last[-1] is not cohort:
            last.append(cohort)
            found.append([])
        found[-1].append(" ".join(member.name for member in cohort.active))
        return real(cohort, data, optim_wrapper)

    patch.setattr(Cohort, "train_step", train_step)
    return found


class Listener(Reporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


def test_position_of_a_cohort_is_the_newest_that_all_share(bench: Bench, same: Callable[..., None]) -> None:
    from kdzoo import api

    with pytest.MonkeyPatch.context() as patch:
        stop_before_records(patch)
        with pytest.raises(KeyboardInterrupt):
            bench.run("scratch,kd+uniform")
    folder = next((bench.folder / "work").glob("runs/*/*/0/scratch*"))
    assert checkpoint.positions(folder) == [(2, 0), (1, 0)]
    (folder / "checkpoint-000002-00000000.safetensors").unlink()
    listener = Listener()
    api.execute(api.plan(**bench.options("scratch,kd+uniform")), threads=1, reporter=listener)
    same(bench)
    assert len(bench.contents()) == 2


@pytest.mark.parametrize("damage", ["cut", "another member's", "empty", "garbage", "foreign notes"])
def test_damaged_checkpoint_falls_back_to_the_one_before(
    bench: Bench, same: Callable[..., None], damage: str
) -> None:
    from kdzoo import api

    with pytest.MonkeyPatch.context() as patch:
        stop_before_records(patch)
        with pytest.raises(KeyboardInterrupt):
            bench.run("kd+uniform,scratch")
    folder = next((bench.folder / "work").glob("runs/*/*/0/kd*"))
    newest = folder / "checkpoint-000002-00000000.safetensors"
    content = newest.read_bytes()
    other = next((bench.folder / "work").glob("runs/*/*/0/scratch*")) / newest.name
    newest.write_bytes({
        "another member's": other.read_bytes(),
        "cut": content[: len(content) // 2], "empty": b"", "garbage": b"\x80\x05garbage" * 100,
        "foreign notes": content.replace(b'\\"name\\"', b'\\"nome"\\'),
    }[damage])  # fmt: skip
    listener, trained = Listener(), []
    with pytest.MonkeyPatch.context() as patch:
        real = Cohort.train_step
        patch.setattr(Cohort, "train_step", lambda *a, **k: (trained.append(1), real(*a, **k))[1])
        api.execute(api.plan(**bench.options("kd+uniform,scratch")), threads=1, reporter=listener)
    same(bench)
    assert len(bench.contents()) == 2
    assert len(trained) == STEPS
    told = [text for text in listener.said if str(newest) in text]
    assert told
    assert "damaged and passed over" in told[0]


def stop_before_records(patch: pytest.MonkeyPatch) -> None:
    """End a run when all is trained but nothing recorded."""

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    patch.setattr("kdzoo.training.session.Session._finish", interrupt)


def test_nothing_is_left_of_checkpoints_when_a_member_is_done(bench: Bench, children: Any) -> None:
    total = events_of(children, bench, bench.command("scratch"))
    # Inside the last write of a checkpoint, so that a part of it lies there.
    assert children.run(bench.command("scratch"), bench.folder / "log", kill_at=total // 2) == KILLED
    parts = [
        p.name for p in (bench.folder / "work" / "runs").rglob("*") if p.suffix in (".part", ".safetensors")
    ]
    assert parts
    assert children.run(bench.command("scratch"), bench.folder / "log2") == 0
    left = {p.name for p in (bench.folder / "work" / "runs").rglob("*") if p.is_file()}
    assert left - {".lock"} == {"record.json", "student.json", "student.safetensors"}
