"""`kdzoo new`: what it writes is whole, keeps the contract, and is what README shows."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kdzoo import cli
from kdzoo.registry import DATASETS, DISTILLERS, MODELS, SOURCES
from kdzoo.scaffold import KINDS, rendered

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = [(r, dict(r.module_dict)) for r in (DISTILLERS, SOURCES, MODELS, DATASETS) if r.names()]
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for registry, things in before:
        registry.module_dict.clear()
        registry.module_dict.update(things)


def test_the_kinds_are_those_of_the_command_line():
    assert tuple(KINDS) == cli.KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_two_files_and_what_to_do_with_them(kind, capsys):
    assert cli.main(["new", kind, "my_own"]) == 0
    said = capsys.readouterr().out
    assert sorted(p.name for p in Path().iterdir()) == ["my_own.py", "test_my_own.py"]
    assert "python -m pytest test_my_own.py" in said
    assert "python -m kdzoo.bench --plugin my_own.py --methods scratch" in said
    assert "my_own" in said.splitlines()[-1].split("--plugin my_own.py")[1]
    if kind != "dataset":
        assert "class MyOwn(" in Path("my_own.py").read_text()


def test_their_own_tests_pass():
    """In a process of their own, as their user runs them; the texts alone are not enough. One for all four,
    as the networks that contracts are checked on take their time."""
    for kind in KINDS:
        cli.main(["new", kind, f"my_{kind}"])
    (Path() / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    tests = [f"test_my_{kind}.py" for kind in KINDS]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "--durations=5"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    print(run.stdout)


@pytest.mark.parametrize("kind", ["distiller", "source", "model", "dataset"])
def test_the_command_that_it_names_trains(kind, capsys):
    cli.main(["new", kind, "my_own"])
    command = capsys.readouterr().out.splitlines()[-1].removeprefix("Train with it: python -m kdzoo.bench ")
    words = command.replace("DIR", ".").split()
    draw = np.random.default_rng(0)
    for part, count in (("train", 60), ("test", 20)):
        images = draw.integers(0, 256, (count, 32, 32, 1), np.uint8)
        np.savez(f"{part}.npz", images=images, labels=np.arange(count) % 5)
    small = [
        "--epochs",
        "1",
        "--teacher-epochs",
        "1",
        "--threads",
        "1",
        "--device",
        "cpu",
        "--teacher",
        "resnet8",
    ]
    assert cli.main(["bench", *words, *small]) == 0
    out = capsys.readouterr()
    assert not out.err
    assert "my_own" in out.out


def test_nothing_is_overwritten(capsys):
    cli.main(["new", "model", "my_own"])
    Path("my_own.py").write_text("mine")
    assert cli.main(["new", "model", "my_own"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert Path("my_own.py").read_text() == "mine"
    assert cli.main(["new", "model", "my_own", "--output", "elsewhere"]) == 0
    assert Path("elsewhere/my_own.py").is_file()


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["distiller", "My-KD"], "the name must be small letters, digits and '_', as in my_kd, got 'My-KD'"),
        (["distiller", "class"], "'class' is a word of Python's own. Choose another name."),
        (["distiller", "../evil"], "the name must be"),
        (["distiller", "kd"], "there is a distiller 'kd' already. Choose another name."),
        (["dataset", "digits"], "there is a data set 'digits' already"),
        (["source", "kd"], "there is a distiller 'kd' already. Choose another name."),
        (["distiller", "reffakd"], "there is a source 'reffakd' already. Choose another name."),
        (["distiller", "table8"], "table8 and all stand for several methods. Choose another name."),
        (["distiller", "all"], "table8 and all stand for several methods. Choose another name."),
        (["distiller", "random"], "random.py would hide the module 'random', which can be imported here. "),
        (["dataset", "torch"], "torch.py would hide the module 'torch', which can be imported here. "),
        (["model", "kdzoo"], "kdzoo.py would hide the module 'kdzoo'"),
        (["source", "this"], "this.py would hide the module 'this'"),
        (["distiller", "test_x"], "pytest would take test_x.py for a file of tests. Choose a name that "),
        (["distiller", "x_test"], "pytest would take x_test.py for a file of tests"),
        (["dataset", "conftest"], "pytest would take conftest.py for a file of tests"),
        (["distillers", "x"], "invalid choice: 'distillers'"),
    ],
)
def test_a_name_that_cannot_be_is_refused(words, answer, capsys):
    assert cli.main(["new", *words]) == 2
    said = capsys.readouterr().err
    assert answer in said
    assert len(said.splitlines()) == 1
    assert list(Path().iterdir()) == []


def test_a_module_of_an_installed_package_keeps_its_name(tmp_path, monkeypatch, capsys):
    """And a file in the folder that is worked in is told as what it is."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/installed_net.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    monkeypatch.syspath_prepend("")
    assert cli.main(["new", "model", "installed_net"]) == 2
    assert "would hide the module 'installed_net'" in capsys.readouterr().err
    (tmp_path / "here_net.py").write_text("")
    assert cli.main(["new", "model", "here_net"]) == 2
    assert "here_net.py is there already. Choose another name or --output." in capsys.readouterr().err
    assert cli.main(["new", "model", "here_net", "--output", "below"]) == 0


def test_a_folder_that_cannot_be_written_is_told_with_its_option(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main(["new", "model", "my_own", "--output", "file/below"]) == 1
    said = capsys.readouterr().err
    assert "Make room there or choose another --output, then run the same command again." in said
    assert len(said.splitlines()) == 1


def test_the_distiller_of_the_readme_is_the_one_that_is_written():
    text = rendered("distiller", "embed")["embed.py"]
    assert f"```python\n{text}```" in (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 30


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_tidy(kind):
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent))
    assert ruff, "ruff is part of the set-up for development"
    cli.main(["new", kind, "my_own"])
    rules = ["--isolated", "--line-length", "110"]
    for words in (["check", "--select", "E,F,W,UP,B,SIM", *rules], ["format", "--check", *rules]):
        run = subprocess.run([ruff, *words, "."], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
