"""`kdzoo bench` from the command to the table, on the embedded digits and on the tiny zoo."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tinyzoo import EPOCHS, STEPS, Bench

from kdzoo import cli
from kdzoo.training.cohort import Cohort

DIGITS = [
    "bench", "--methods", "scratch,kd,dkd,reffakd", "--epochs", "1", "--teacher-epochs", "1",
    "--cae-epochs", "1",
    "--device", "cpu", "--threads", "1", "--cfg-options", "teacher.network.type=resnet8",
]  # fmt: skip
# On a machine that others use a flush to disk may fail the clock, but not these words.
TIME = re.compile(r"time: about \d+:\d\d")


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_digits_from_plan_to_leaderboard(
    in_an_empty_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*DIGITS, "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "digits: digits, 1498 training and 299 test images, 1x32x32" in plan
    assert plan.count("train      ") == 6
    assert "time: unknown" in plan
    assert list(in_an_empty_directory.iterdir()) == []

    assert cli.main(DIGITS) == 0
    answer = capsys.readouterr()
    assert not answer.err
    table = [line.split() for line in answer.out.splitlines() if line.split() and line.split()[0] in
             ("scratch", "kd", "dkd", "reffakd", "teacher")]  # fmt: skip
    assert {row[0] for row in table} == {"scratch", "kd", "dkd", "reffakd", "teacher"}
    # The teacher's accuracy is seen before any student is trained.
    assert answer.out.index("teacher: resnet8, ") < answer.out.index("digits, seed 0: ")
    page = Path("work_dirs/leaderboard.md").read_text()
    assert "digits: resnet8 -> lenet5" in page
    assert "dkd" in page
    # Nothing is left outside the work directory, and nothing but records, weights, artifacts, a bank in it.
    assert [p.name for p in in_an_empty_directory.iterdir()] == ["work_dirs"]
    assert sorted(p.name for p in Path("work_dirs").iterdir()) == [
        "artifacts",
        "banks",
        "leaderboard.md",
        "runs",
    ]
    kept = {p.name for p in Path("work_dirs").rglob("*") if p.is_file()}
    assert kept == {
        ".lock", "leaderboard.md", "record.json", "student.json", "student.safetensors", "settings.json",
        "weights.safetensors",
        "outputs.safetensors", "entry.json", "view.json", "rows", "order",
    }  # fmt: skip

    assert cli.main([*DIGITS, "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert plan.count("done      ") == 4
    assert plan.count("not needed") == 2
    assert "nothing to train" in plan
    assert cli.main([*DIGITS, "--seeds", "2", "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert plan.count("reuse     ") == 2
    assert plan.count("  train     ") == 4
    assert TIME.search(plan)


def interrupt(patch: pytest.MonkeyPatch, member: str, epoch: int, step: int) -> None:
    """Press Ctrl-C inside a step."""
    real = Cohort.train_step

    def train_step(cohort: Cohort, data: tuple[int, int], optim_wrapper: Any = None) -> dict[str, Any]:
        if data == (epoch, step) and cohort.members[0].name == member:
            raise KeyboardInterrupt
        return real(cohort, data, optim_wrapper)

    patch.setattr(Cohort, "train_step", train_step)


def test_ctrl_c_says_what_is_kept_and_the_same_command_goes_on(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.run("kd,noisy", work="undisturbed")
    command = bench.command("kd,noisy")
    for member, epoch, step, kept in [
        ("teacher", 0, 1, "0 of 2 members are finished in"),
        ("kd", 0, 1, "0 of 2 members are finished in"),
        ("kd", 1, 1, "0 of 2 members are finished, 2 have a checkpoint after epoch 1 in"),
    ]:
        with pytest.MonkeyPatch.context() as patch:
            interrupt(patch, member, epoch, step)
            assert cli.main(command) == 130
        said = capsys.readouterr().err
        assert said.startswith("Interrupted. ")
        assert kept in said
        assert "Run the same command again to go on from there." in said
        assert len(said.splitlines()) == 1
    assert cli.main([*command, "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert plan.count("go on after epoch 1") == 2
    assert "reuse" in plan
    steps = []
    with pytest.MonkeyPatch.context() as patch:
        real = Cohort.train_step
        patch.setattr(Cohort, "train_step", lambda *a, **k: (steps.append(1), real(*a, **k))[1])
        assert cli.main(command) == 0
    assert len(steps) == STEPS * (EPOCHS - 1)
    assert bench.contents() == bench.contents("undisturbed")


def test_ctrl_c_after_some_are_done_counts_them(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.run("scratch")
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, "kd+uniform", 1, 0)
        assert cli.main(bench.command("scratch,kd+uniform")) == 130
    said = capsys.readouterr().err
    assert "1 of 2 members are finished, 1 have a checkpoint after epoch 1" in said


def test_validation_split_selects_on_validation_images(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(bench.command("scratch,kd", "--val-fraction", "0.2")) == 0
    for record, _ in bench.contents().values():
        assert record["settings"]["data"]["validation"] == 8
        assert record["settings"]["data"]["train"] == 32
        assert all("top1" in epoch["validation"] for epoch in record["epochs"])
        chosen = record["accuracy"]["validation_selected_epoch"]
        assert record["accuracy"]["validation_selected"] == record["epochs"][chosen - 1]["test"]["top1"]
        best = max(epoch["validation"]["top1"] for epoch in record["epochs"])
        assert record["epochs"][chosen - 1]["validation"]["top1"] == best
    plain = Bench(bench.folder)
    plain.run("scratch", work="plain")
    [(other, _)] = bench.contents("plain").values()
    assert other["accuracy"]["validation_selected"] is None
    assert other["protocol"]["hash"] != record["protocol"]["hash"]


def test_bf16_is_another_protocol_and_repeats(bench: Bench) -> None:
    methods = "scratch,kd,dkd+reffakd,noisy"
    assert cli.main(bench.command(methods, "--precision", "bf16")) == 0
    bench.run("kd,noisy", work="again", precision="bf16")
    found, again = bench.contents(), bench.contents("again")
    assert len(found) == 4
    assert again == {name: found[name] for name in again}
    bench.run("kd", work="float32")
    assert bench.contents("float32")["kd", 0][1] != found["kd", 0][1]
    assert {r["settings"]["precision"] for r, _ in found.values()} == {"bf16"}
    assert all(r["status"] == "done" for r, _ in found.values())


def test_adamw_and_cosine_by_options_of_the_config(bench: Bench) -> None:
    options = [
        "recipe.optimizer.type=AdamW", "recipe.optimizer.lr=0.002",
        "recipe.param_scheduler=[{'type': 'CosineAnnealingLR', 'T_max': 2}]", "recipe.epochs=4",
        "recipe.batch_size=20",
    ]  # fmt: skip
    assert cli.main(bench.command("scratch,reffakd", "--cfg-options", *options)) == 0
    for record, _ in bench.contents().values():
        assert record["settings"]["optimizer"] == {"type": "AdamW", "lr": 0.002}
        assert record["settings"]["param_scheduler"] == [{"type": "CosineAnnealingLR", "T_max": 4}]
        rates = [epoch["lr"] for epoch in record["epochs"]]
        assert rates == sorted(rates, reverse=True)
        assert len(set(rates)) == 4
        assert record["settings"]["batch_size"] == 20


def under_public_names(weights: Path) -> dict[str, Any]:
    """As RepDistiller saves a thin ResNet: its names, the state of the optimizer, numpy's learning rate."""
    renamed = {}
    for name, tensor in load_file(weights).items():
        name = re.sub(r"^stages\.(\d)", lambda found: f"layer{int(found[1]) + 1}", name)
        for ours, theirs in (
            ("stem.0", "conv1"), ("stem.1", "bn1"), ("main.0", "conv1"), ("main.1", "bn1"),
            ("main.3", "conv2"), ("main.4", "bn2"), ("shortcut", "downsample"), ("classifier", "fc"),
        ):  # fmt: skip
            name = name.replace(ours, theirs)
        renamed[name] = tensor
    rate = {"lr": np.float64(5e-5), "params": [0]}
    return {"epoch": 240, "model": renamed, "best_acc": 79.4, "optimizer": {"param_groups": [rate]}}


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_teacher_of_the_users_own(bench: Bench, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    """A teacher's own weights, given as a checkpoint, teach the same; the record says whose they are."""
    bench.run("kd", work="trained")
    [weights] = (bench.folder / "trained").glob("artifacts/teacher*/weights.safetensors")
    given = bench.folder / f"mine.{suffix}"
    if suffix == "pth":
        torch.save(under_public_names(weights), given)
    else:
        given.write_bytes(weights.read_bytes())
    assert cli.main(bench.command("kd,scratch", "--teacher-checkpoint", str(given))) == 0
    said = capsys.readouterr().out
    assert said.index(f"(read from {given})") < said.index("tiny, seed 0: ")
    mine, trained = bench.contents()["kd", 0], bench.contents("trained")["kd", 0]
    assert mine[1] == trained[1]
    assert mine[0]["epochs"] == trained[0]["epochs"]
    assert mine[0]["key"] != trained[0]["key"]
    artifact = mine[0]["artifacts"]["teacher"]
    assert artifact["origin"] == "checkpoint"
    assert artifact["score"] == trained[0]["artifacts"]["teacher"]["score"]
