"""Law 8: mistakes are found before training, all at once, in a line or two each; exit status 2."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tinyzoo import Bench

from kdzoo import cli

# Options, and what the answer must say.
WRONG = [
    (["--methods", "dkdd"], "Did you mean 'dkd'"),
    (["--methods", "kd+refakd"], "Did you mean 'reffakd'"),
    (["--methods", "kd:temprature=4"], "Did you mean 'temperature'"),
    (["--methods", "kd:alpha=2"], "alpha must be a number in [0, 1], got '2'"),
    (["--methods", "kd:alpha"], "distiller[:name=value]*"),
    (["--methods", "kd:alpha=0.1:alpha=0.2"], "given twice"),
    (["--methods", "scratch+reffakd"], "takes no soft labels"),
    (["--methods", "crd~kd~at~pkt"], "a sum must be of at most 3 distillers, each once"),
    (["--methods", "kd+mixture:teacher=1"], "its weights must be those of two sources or more, 1 in sum"),
    (["--methods", "kd+ensemble:teachers=teacher"], "two names or more, each once"),
    (["--methods", ","], "got an empty one"),
    (["--cfg-options", "teacher.network.type=18"], "must be a name, got 18"),
    (["--cfg-options", "data.type=[1]"], "must be a name, got [1]"),
    (["--cfg-options", "recipe.optimizer.weight_decay=1e999"], "must hold finite numbers"),
    (["--cfg-options", "recipe.param_scheduler.0.gamma=abc"], "cannot be built"),
    (["--cfg-options", "recipe.param_scheduler.0.milestones=abc"], "a number or a list of numbers"),
    (["--cfg-options", "recipe.optimizer={'type':'LBFGS'}"], "cannot be built"),
    (["--cfg-options", "student.network.type=autoencoder"], "must be a classifier"),
    (["--epochs", "100001"], "at most 100000"),
    (["--methods", "reffakd", "--val-fraction", "0.999"], "lower --val-fraction"),
    (["--methods", "zz*"], "nothing matches 'zz*'"),
    (["--benchmark", "digit"], "Did you mean 'digits'"),
    (["--benchmark", "missing.py"], "there is no config file missing.py"),
    (["--seeds", "0"], "seeds must be a count such as 3"),
    (["--seeds", "x"], "seeds must be a count such as 3"),
    (["--seeds", "99999999999"], "seeds must be a count such as 3"),
    (["--seeds", "99999999999999999999999"], "seeds must be a count such as 3"),
    (["--seeds", "1,1"], "seeds must be a count such as 3"),
    (["--seeds=-1,2"], "seeds must be a count such as 3"),
    (["--epochs", "0"], "epochs must be an integer of at least 1, got 0"),
    (["--epochs", "two"], "--epochs: it must be an integer, got 'two'"),
    (["--bank-limit", "30GB"], "--bank-limit: it must be a number, got '30GB'"),
    (["--teacher-epochs", "-1"], "epochs must be an integer of at least 1, got -1"),
    (["--cae-epochs", "0"], "epochs must be an integer of at least 1, got 0"),
    (["--val-fraction", "1"], "val_fraction must be a number in [0, 1), got 1"),
    (["--val-fraction", "nan"], "val_fraction must be a number in [0, 1), got nan"),
    (["--precision", "fp16"], "precision must be float32, bf16 or auto, got 'fp16'"),
    (["--device", "gpu"], "device must be cpu"),
    (["--device", "cuda:99"], "device must be cpu"),
    (["--workers", "-5"], "workers must be an integer of at least 0, got -5"),
    (["--workers", "-5", "--dry-run"], "workers must be an integer of at least 0, got -5"),
    (["--threads", "0"], "threads must be an integer of at least 1, got 0"),
    (["--cfg-options", "recipe.batch_size"], "must be name=value"),
    (["--cfg-options", "recipe.batch_size=0"], "batch_size must be an integer of at least 1, got 0"),
    (["--cfg-options", "recip.batch_size=8"], "Did you mean 'recipe'"),
    (["--cfg-options", "recipe.batchsize=8"], "Did you mean 'batch_size'"),
    (["--cfg-options", "views.rotatoin=3"], "Did you mean 'rotation'"),
    (["--cfg-options", "views.rotation=200"], "rotation must be a number in [0, 180], got 200"),
    (["--cfg-options", "student.network.type=lenet"], "Did you mean 'lenet5'"),
    (["--cfg-options", "student.network.depth=3"], "depth"),
    (["--cfg-options", "data.type=digit"], "Did you mean 'digits'"),
    (["--cfg-options", "recipe.optimizer.type=SDG"], "Did you mean 'SGD'"),
    (["--cfg-options", "recipe.optimizer.momentun=1"], "momentun"),
    (["--cfg-options", "recipe.param_scheduler.0.type=MultistepLR"], "Did you mean 'MultiStepLR'"),
    (["--cfg-options", "recipe.optimizer=3"], "optimizer must be a dict"),
    (["--cfg-options", "recipe.param_scheduler=3"], "param_scheduler must be a list of dicts"),
    (["--cfg-options", "student=3"], "student"),
    (["--cfg-options", "methods.kd.temprature=3"], "Did you mean 'temperature'"),
    (["--student", "lenet6"], "Did you mean 'lenet5'"),
    (["--student", "lenet5:"], "--student: its value must be name[:option=value]*"),
    (["--teacher", "resnet18:head=big", "--methods", "kd"], "head must be 'auto' or 'global' or 'pool4'"),
    (["--teacher", "autoencoder", "--methods", "kd"], "must be a classifier"),
    (["--teacher", "resnet19", "--methods", "scratch"], "there is no model 'resnet19'. Did you mean"),
    (["--teacher", "resnet18:haed=1", "--methods", "scratch"], "Did you mean 'head'"),
    (["--data", "digit"], "Did you mean 'digits'"),
    (["--plugin", "nosuch.py"], "plug-in nosuch.py: must be a Python file"),
    (["--epoch", "3"], "Did you mean --epochs"),
    (["--methos", "kd"], "Did you mean --methods"),
]


@pytest.fixture(autouse=True)
def nothing_is_trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A test that trains by mistake would take minutes, and miss the point."""
    monkeypatch.setattr(
        "kdzoo.training.session.Session.run", lambda self: pytest.fail("something was trained")
    )
    monkeypatch.chdir(tmp_path)


def answer_to(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command with a mistake and give its answer."""
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert not said.out
    return said.err


@pytest.mark.parametrize(
    ("options", "expected"), WRONG, ids=lambda v: " ".join(v) if isinstance(v, list) else ""
)
def test_mistake_is_answered_in_two_lines(
    zoo: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], expected: str
) -> None:
    methods = [] if "--methods" in options else ["--methods", "scratch,kd"]
    said = answer_to(["bench", "--device", "cpu", *methods, *options], capsys)
    assert expected in said
    assert len(said.splitlines()) <= 2, said
    assert max(len(line) for line in said.splitlines()) < 500, said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "required"),
        (["bensh"], "bench"),
        (["list"], "required"),
        (["list", "method"], "methods"),
        (["leaderboard", "nowhere"], "no such file or folder"),
        (["bench", "extra"], "extra"),
    ],
)
def test_mistake_in_the_command_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    said = answer_to(arguments, capsys)
    assert expected in said
    assert len(said.splitlines()) <= 2, said
    assert list(tmp_path.iterdir()) == []


def test_missing_data_names_files_and_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "bench",
        "--benchmark",
        "fashion_mnist",
        "--data-root",
        str(tmp_path / "nowhere"),
        "--methods",
        "scratch",
    ]
    said = answer_to(arguments, capsys)
    assert str(tmp_path / "nowhere") in said
    assert len(said.splitlines()) <= 2, said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("inside", [".", "deeper/still"])
def test_work_dir_that_cannot_be_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], inside: str
) -> None:
    (tmp_path / "file").write_text("mine")
    said = answer_to(["bench", "--methods", "scratch", "--work-dir", str(tmp_path / "file" / inside)], capsys)
    assert "work_dir must be a folder" in said
    assert len(said.splitlines()) == 1
    assert (tmp_path / "file").read_text() == "mine"


def test_leaderboard_without_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").mkdir()
    assert "no records in runs. Run kdzoo bench first." in answer_to(["leaderboard", "runs"], capsys)


@pytest.mark.parametrize("content", ["missing", "folder", "shape", "name", "object", "text"])
def test_teacher_checkpoint_that_does_not_fit(
    bench: Bench, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    given = bench.folder / f"teacher.{'pt' if content == 'object' else 'safetensors'}"
    if content == "folder":
        given.mkdir()
    elif content == "object":
        torch.save([1, 2], given)
    elif content == "text":
        given.write_text("none of it")
    elif content != "missing":
        name = "stem.0.weight" if content == "shape" else "body.weight"
        save_file({name: torch.zeros(3)}, given)
    said = answer_to(bench.command("scratch,kd", "--teacher-checkpoint", str(given)), capsys)
    expected = {
        "missing": "there is no such file", "folder": "cannot be read",
        "shape": "1 of another shape (stem.0.weight (3,)",
        "name": "1 unknown (body.weight)", "object": "dictionary of tensors", "text": "cannot be read",
    }  # fmt: skip
    assert expected[content] in said
    assert str(given) in said
    assert len(said.splitlines()) <= 2
    assert not (bench.folder / "work").exists()


def test_all_mistakes_are_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    arguments = ["bench", "--methods", "dkdd,kd:alpha=3:temperature=0", "--seeds", "0", "--device", "gpu",
                 "--work-dir", str(tmp_path / "file"), "--cfg-options", "data.type=digit"]  # fmt: skip
    said = answer_to(arguments, capsys).splitlines()
    assert len(said) == 7
    for word in ("dkdd", "alpha", "temperature", "seeds", "device", "work_dir", "digit"):
        assert any(word in line for line in said), word
    arguments = ["bench", "--epochs", "0", "--teacher-epochs", "-3", "--cfg-options", "views.rotatoin=1"]
    said = answer_to(arguments, capsys).splitlines()
    assert len(said) == 3
    for word in ("'student'", "'teacher'", "rotatoin"):
        assert any(word in line for line in said), said
    arguments = ["bench", "--precision", "fp16", "--val-fraction", "2", "--cfg-options", "recip.epochs=1"]
    assert len(answer_to(arguments, capsys).splitlines()) == 3


def test_python_raises_the_same_answer(bench: Bench) -> None:
    import kdzoo

    with pytest.raises(kdzoo.UsageError, match=r"there is no distiller 'dkdd'\. Did you mean 'dkd'"):
        kdzoo.run(methods=["dkdd"])
    with pytest.raises(kdzoo.UsageError, match="threads must be an integer of at least 1, got 0"):
        kdzoo.run(**bench.options("scratch"), threads=0)
    for function in (kdzoo.run, kdzoo.plan):
        name = function.__name__
        with pytest.raises(kdzoo.UsageError) as caught:
            function(method=["kd"], dta="digits")
        assert str(caught.value).splitlines() == [
            f"{name}: there is no argument 'method'. Did you mean 'methods'?",
            f"{name}: there is no argument 'dta'. Did you mean 'data' or 'data_root'?",
        ]
    with pytest.raises(
        kdzoo.UsageError, match=r"^soft_labels: there is no argument 'seeds'\. Did you mean 'seed"
    ):
        kdzoo.soft_labels("reffakd", seeds=3)
    with pytest.raises(kdzoo.UsageError, match="workers must be an integer of at least 0, got -1"):
        kdzoo.run(**bench.options("nosuch"), workers=-1)
    with pytest.raises(kdzoo.UsageError, match="seeds must be"):
        kdzoo.run(**bench.options("scratch"), seeds=[True, "a"])
