"""Law 5: who diverges, raises or writes into what is shared is set aside; the others' numbers stay."""

from collections.abc import Callable

import pytest
from tinyzoo import EPOCHS, Bench, Raising, contents

from kdzoo import cli
from kdzoo.training.cohort import SharedWriteError


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    return lambda value: monkeypatch.setattr(Raising, "broken", value)


@pytest.mark.parametrize("epoch", range(EPOCHS))
@pytest.mark.parametrize("methods", ["diverging:epoch={},kd,noisy", "kd,scratch,diverging:epoch={},noisy"])
def test_diverging_member_is_final_and_disturbs_nobody(
    bench: Bench, together: dict, methods: str, epoch: int
) -> None:
    results = bench.run(methods.format(epoch))
    assert not results.failed
    found = bench.contents()
    [name] = [n for n in found if n[0].startswith("diverging")]
    record, _ = found.pop(name)
    assert record["status"] == "diverged"
    assert len(record["epochs"]) == epoch + 1
    assert record["epochs"][epoch]["train"]["loss"] is None
    assert len(found) == len(methods.split(",")) - 1
    assert found == {name: together[name] for name in found}


def test_diverged_member_is_not_trained_again_and_is_shown(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nobody is left to train: the rest of the epochs is not run for nobody."""
    assert cli.main(bench.command("diverging")) == 0
    assert "diverged" in capsys.readouterr().out
    monkeypatch.setattr(
        "kdzoo.training.cohort.Cohort.train_step", lambda *a, **k: pytest.fail("trained again")
    )
    assert cli.main(bench.command("diverging")) == 0
    assert "diverged" in capsys.readouterr().out


@pytest.mark.parametrize("methods", ["raising,kd,noisy", "noisy,kd,raising", "raising:step=0,kd,noisy"])
def test_raising_member_has_no_record_and_is_tried_again(
    bench: Bench,
    together: dict,
    broken: Callable[[bool], None],
    capsys: pytest.CaptureFixture[str],
    methods: str,
) -> None:
    assert cli.main(bench.command(methods)) == 1
    answer = capsys.readouterr()
    assert "raising" in answer.err
    assert "ZeroDivisionError: a fault of this method" in answer.err
    assert "Traceback" in answer.err
    found = bench.contents()
    assert found == {name: together[name] for name in (("kd", 0), ("noisy", 0))}
    records = {p: p.stat().st_mtime_ns for p in (bench.folder / "work").rglob("record.json")}

    assert cli.main(bench.command(methods)) == 1
    assert "a fault of this method" in capsys.readouterr().err
    broken(False)
    assert cli.main(bench.command(methods)) == 0
    assert len(bench.contents()) == 3
    assert {p: p.stat().st_mtime_ns for p in records} == records
    bench.run(methods, work="mended")
    assert bench.contents() == contents(bench.folder / "mended")


WRITERS = [
    ("writer:into=images", "batch.images"),
    ("writer:into=labels", "batch.labels"),
    ("writer:into=digest", "embedding"),
    ("writer:into=soft_labels+reffakd", "soft_labels"),
]


@pytest.mark.parametrize(("writer", "tensor"), WRITERS)
@pytest.mark.parametrize("others", ["{},noisy,reffakd,kd,dkd+reffakd", "noisy,reffakd,{},kd,dkd+reffakd"])
def test_method_that_writes_into_a_shared_tensor_is_named(
    bench: Bench, together: dict, writer: str, tensor: str, others: str
) -> None:
    writer = "writer" if writer == "writer:into=images" else writer
    results = bench.run(others.format(writer))
    assert list(results.failed) == [f"{writer}, seed 0"]
    [fault] = results.failed.values()
    assert isinstance(fault, SharedWriteError)
    assert writer in str(fault)
    assert tensor in str(fault)
    found = bench.contents()
    assert len(found) == 4
    assert found == {name: together[name] for name in found}


def test_answer_to_a_writing_method_is_a_line_and_no_traceback(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(bench.command("writer:into=labels,scratch")) == 1
    answer = capsys.readouterr().err
    assert "wrote into batch.labels" in answer
    assert "Traceback" not in answer


@pytest.mark.parametrize(
    ("culprit", "tensor"),
    [
        ("kd+rough", "batch.images"),
        ("dkd+rough:act=write", "batch.images"),
        ("careless", "teacher.embedding"),
    ],
)
@pytest.mark.parametrize("order", ["{},kd,scratch", "scratch,kd,{}"])
def test_source_or_digest_that_writes_is_named(
    bench: Bench, together: dict, culprit: str, tensor: str, order: str
) -> None:
    results = bench.run(order.format(culprit))
    [(name, fault)] = results.failed.items()
    assert name.startswith(culprit.split(":")[0])
    assert isinstance(fault, SharedWriteError)
    assert tensor in str(fault)
    found = bench.contents()
    assert found == {(method, 0): together[method, 0] for method in ("kd", "scratch")}


@pytest.mark.parametrize("act", ["raise", "shape"])
def test_member_that_fails_when_it_is_judged_takes_nobody_along(
    bench: Bench, together: dict, act: str
) -> None:
    results = bench.run(f"deployed:act={act},scratch,noisy")
    assert list(results.failed) == [f"deployed:act={act}, seed 0"]
    assert bench.contents() == {(method, 0): together[method, 0] for method in ("scratch", "noisy")}


def test_network_that_writes_into_test_images_changes_nobody(bench: Bench, together: dict) -> None:
    assert not bench.run("deployed,scratch").failed
    assert bench.contents()["scratch", 0] == together["scratch", 0]


def test_source_that_fails_takes_only_its_members_along(bench: Bench, together: dict) -> None:
    results = bench.run("kd+rough:act=fail,dkd+rough:act=fail,reffakd,kd")
    assert list(results.failed) == ["kd+rough:act=fail, seed 0", "dkd+rough:act=fail, seed 0"]
    assert "a fault of this source" in str(results)
    assert bench.contents() == {(method, 0): together[method, 0] for method in ("reffakd", "kd")}


def test_teacher_that_diverges_takes_only_its_members_along(bench: Bench, together: dict) -> None:
    options = {"cfg_options": {"teacher.recipe.optimizer.lr": 1e30}}
    results = bench.run("kd,scratch,dkd,reffakd", **options)
    assert sorted(results.failed) == ["dkd, seed 0", "kd, seed 0"]
    assert all("diverged" in str(fault) for fault in results.failed.values())
    assert bench.contents() == {(method, 0): together[method, 0] for method in ("scratch", "reffakd")}


def test_soft_labels_made_in_inference_mode_are_taken(bench: Bench) -> None:
    assert not bench.run("kd+rough:act=inference").failed
