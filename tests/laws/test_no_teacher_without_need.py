"""Law 4: a teacher is built, loaded or run only if a requested member needs it."""

from collections.abc import Callable

import pytest
from tinyzoo import Bench

from kdzoo import cli
from kdzoo.checks import KdzooError
from kdzoo.training import networks

NO_TEACHER = 'teacher = dict(network=dict(type="untouchable"))'
FREE = "scratch,reffakd,dkd+reffakd,kd+uniform,spy"


def test_members_without_need_train_beside_a_teacher_that_cannot_be_built(
    make_bench: Callable[..., Bench],
    same: Callable[..., None],
    together: dict,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bench = make_bench(NO_TEACHER)
    assert cli.main(bench.command(FREE, "--dry-run")) == 0
    assert cli.main(bench.command(FREE)) == 0
    found = bench.contents()
    assert len(found) == 5
    assert found.pop(("spy", 0))
    # Nothing of the teacher's settings reaches them: not their keys, not their records.
    assert found == {name: together[name] for name in found}
    folders = [p.name for p in (bench.folder / "work" / "artifacts").iterdir()]
    assert [name.split("-")[0] for name in folders] == ["autoencoder"]
    assert "untouchable" not in capsys.readouterr().out


def test_method_that_needs_one_builds_it(make_bench: Callable[..., Bench]) -> None:
    """Guards the test above: such a teacher is noticed where one is needed."""
    with pytest.raises(AssertionError, match="the teacher was built"):
        make_bench(NO_TEACHER).run("kd")


def test_teacher_checkpoint_is_not_read_without_need(
    bench: Bench, same: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    missing = bench.folder / "missing.safetensors"
    assert cli.main(bench.command("scratch", "--teacher-checkpoint", str(missing))) == 0
    assert "is not used: none of the methods needs a teacher" in capsys.readouterr().out
    # The same of one that is chosen by name, which is known and yet not built.
    for methods, used in (("scratch", False), ("scratch,kd", True)):
        assert cli.main(bench.command(methods, "--teacher", "resnet8", "--dry-run")) == 0
        said = capsys.readouterr().out
        assert ("The teacher resnet8 is not used: none of the methods needs a teacher." in said) != used
    same(bench)


def test_finished_students_do_not_load_their_teacher_again(
    bench: Bench, same: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run("kd")

    def never(self: networks.SharedTeacher, *arguments: object) -> None:
        raise KdzooError("the teacher was run")

    monkeypatch.setattr(networks.SharedTeacher, "__init__", never)
    bench.run("kd,scratch,reffakd")
    same(bench)
    assert len(bench.contents()) == 3
