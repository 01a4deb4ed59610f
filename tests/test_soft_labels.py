"""`kdzoo.soft_labels`: the labels themselves, the same as a run's, for anyone's own loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tinyzoo import Bench

import kdzoo
from kdzoo import api
from kdzoo.outputs import Batch
from kdzoo.sources.reffakd import ReffAKD
from kdzoo.training.session import Session


def options(bench: Bench, **more: Any) -> dict[str, Any]:
    return {k: v for k, v in bench.options("kd").items() if k != "methods"} | {"threads": 1} | more


def test_rows_are_those_that_students_are_trained_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = ReffAKD.__call__

    def call(source: ReffAKD, batch: Batch) -> Any:
        seen.append(source.class_rows)
        return real(source, batch)

    monkeypatch.setattr(ReffAKD, "__call__", call)
    bench.run("reffakd", epochs=1)
    rows = kdzoo.soft_labels("reffakd", **options(bench))
    assert torch.equal(rows, seen[0])
    assert rows.shape == (4, 4)
    torch.testing.assert_close(rows.sum(dim=1), torch.ones(4))
    assert (rows.argmax(dim=1) == torch.arange(4)).all()


def test_no_student_is_trained_and_artifacts_are_shared_with_runs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    kdzoo.soft_labels("reffakd", **options(bench))
    work = bench.folder / "work"
    assert [p.name.split("-")[0] for p in (work / "artifacts").iterdir()] == ["autoencoder"]
    assert not (work / "runs").exists()
    trained = []
    real = Session._run_cohort
    monkeypatch.setattr(Session, "_run_cohort", lambda self, *a: trained.append(a) or real(self, *a))
    before = {p: p.stat().st_mtime_ns for p in work.rglob("*.safetensors")}
    bench.run("reffakd", epochs=1)
    assert trained
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_options_seed_and_temperature_are_heard(bench: Bench) -> None:
    plain = kdzoo.soft_labels("reffakd", **options(bench))
    assert not torch.equal(plain, kdzoo.soft_labels("reffakd:gamma=0.5", **options(bench)))
    assert not torch.equal(plain, kdzoo.soft_labels("reffakd:per_class=3", seed=1, **options(bench)))
    assert torch.equal(plain, kdzoo.soft_labels("reffakd", temperature=1.0, **options(bench)))
    hot, cold = (kdzoo.soft_labels("teacher", temperature=t, **options(bench)) for t in (20.0, 1.0))
    assert hot.shape == cold.shape == (40, 4)
    assert hot.amax(dim=1).mean() < cold.amax(dim=1).mean()


def test_labels_of_a_source_feed_the_file_source(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    rows = kdzoo.soft_labels("reffakd", **options(bench))
    np.save(path, rows.numpy())
    bench.run(f"reffakd,kd+file:path={path}:kind=probabilities", epochs=1)
    records = api.run(threads=1, **bench.options(f"reffakd,kd+file:path={path}:kind=probabilities", epochs=1))
    one, other = (record.epochs[-1]["train"]["kd"] for record in records.records)
    assert one == pytest.approx(other, rel=1e-5)


def test_mistakes_are_told(bench: Bench) -> None:
    with pytest.raises(kdzoo.UsageError, match=r"no .*source 'refakd'. Did you mean 'reffakd'"):
        kdzoo.soft_labels("refakd", **options(bench))
    with pytest.raises(kdzoo.UsageError, match="must be a number in"):
        kdzoo.soft_labels("reffakd", temperature=0.0, **options(bench))


@pytest.mark.parametrize("source", ["*", "reffakd,uniform", "kd+reffakd", "", 3])
def test_more_or_less_than_one_source_is_refused(source: Any) -> None:
    with pytest.raises(kdzoo.UsageError, match="source must be one source, for example 'reffakd:gamma=auto'"):
        kdzoo.soft_labels(source)


def test_a_teacher_that_cannot_be_made_is_the_fault_that_is_told(bench: Bench) -> None:
    lost = options(bench, cfg_options={"teacher.recipe.optimizer.lr": 1e30})
    with pytest.raises(kdzoo.KdzooError, match="teacher: its training diverged"):
        kdzoo.soft_labels("teacher", **lost)
