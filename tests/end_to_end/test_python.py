"""kdzoo from Python: `kdzoo.run` and what it returns."""

import os
import threading
from pathlib import Path

import pytest
import torch
from tinyzoo import Bench

import kdzoo


def test_run_returns_rows_and_a_table(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    results = kdzoo.run(**bench.options("scratch,kd,reffakd", seeds=2))
    assert [(r.method, r.seed) for r in results.records] == [
        (m, s) for s in (0, 1) for m in ("scratch", "kd", "reffakd")
    ]
    rows = {row["method"]: row for row in results.rows}
    assert set(rows) == {"scratch", "kd", "reffakd"}
    assert all(isinstance(row, dict) for row in results.rows)
    for text in (results.table, str(results), results.leaderboard):
        assert "reffakd" in text
    assert not results.failed
    # As a library it says nothing unless asked.
    said = capsys.readouterr()
    assert not said.out
    assert not said.err


def test_progress_is_shown_where_it_is_asked_for(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    kdzoo.run(**bench.options("scratch"), progress=True)
    assert "tiny, seed 0: scratch for 2 epochs of 3 steps" in capsys.readouterr().out


def test_methods_are_taken_as_a_list_and_results_in_its_order(bench: Bench) -> None:
    options = bench.options("")
    results = kdzoo.run(**{**options, "methods": ["kd+uniform", "scratch"]}, seeds=[4])
    assert [(r.method, r.seed) for r in results.records] == [("kd+uniform", 4), ("scratch", 4)]


def test_run_leaves_the_process_and_the_disk_as_they_were(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cwd, temporary = tmp_path / "cwd", tmp_path / "temporary"
    cwd.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(cwd)
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)
    environment, threads = dict(os.environ), {t.name for t in threading.enumerate()}
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled()
    kdzoo.run(**bench.options("scratch", epochs=1), threads=2)
    assert (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_grad_enabled(),
    ) == before
    assert dict(os.environ) == environment
    assert {t.name for t in threading.enumerate()} == threads
    assert list(cwd.iterdir()) == []
    assert list(temporary.iterdir()) == []
    assert {p.name for p in tmp_path.iterdir()} == {"cwd", "temporary", "tiny.py", "work"}


def test_plan_trains_nothing(bench: Bench) -> None:
    planned = kdzoo.plan(**bench.options("scratch,kd", seeds=2))
    assert len(planned.pending()) == len(planned.members) == 4
    assert [a.name for a in planned.artifacts.values()] == ["teacher"]
    assert not (bench.folder / "work").exists()
