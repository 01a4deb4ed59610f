"""`kdzoo list`, `kdzoo leaderboard`, help and imports."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from tinyzoo import Bench

from kdzoo import cli
from kdzoo.registry import DATASETS, DISTILLERS, MODELS, SOURCES
from kdzoo.training.benchmark import benchmark_names

FAMILIES = ("module", "timm", "torchvision")
PAGES = {
    "methods": DISTILLERS.names, "sources": SOURCES.names, "datasets": DATASETS.names,
    "models": lambda: [f"{name}:NAME" if name in FAMILIES else name for name in MODELS.names()],
    "benchmarks": benchmark_names,
}  # fmt: skip


@pytest.mark.parametrize("what", cli.LISTS)
def test_list_shows_everything_with_a_line(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", what]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line]
    shown = {line[0]: line[1] for line in lines if len(line) == 2}
    for name in PAGES[what]():
        assert shown[name]


@pytest.mark.parametrize("what", cli.LISTS)
def test_list_in_full_shows_options_and_papers(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", what, "-v"]) == 0
    page = capsys.readouterr().out
    for name in PAGES[what]():
        assert f"{name}: " in page
    expected = {
        "methods": ["temperature", "default 4.0; a number in (0, inf)", "arxiv.org/abs/2203.08679"],
        "sources": ["per_class", "default 40; an integer in [", "autoencoder"],
        "models": ["lenet5"], "datasets": ["digits"], "benchmarks": ["optimizer", "lenet5", "40 epochs"],
    }  # fmt: skip
    for words in expected[what]:
        assert words in page, words


def test_list_methods_shows_what_group_words_expand_to(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["list", "methods"])
    page = capsys.readouterr().out
    assert "table8 expands to scratch, at, kd, fitnet, kdsvd, pkt, rkd, dkd, dkd+reffakd, reffakd" in page
    assert "all expands to scratch, " in page


def test_leaderboard_writes_page_and_table(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run("scratch,kd", seeds=2)
    monkeypatch.chdir(bench.folder)
    (bench.folder / "work").rename("work_dirs")
    assert cli.main(["leaderboard", "--csv", "rows.csv", "--title", "My *own* board"]) == 0
    said = capsys.readouterr().out
    assert "4 records: leaderboard.md" in said
    assert "4 records: rows.csv" in said
    assert Path("leaderboard.md").read_text().startswith("# My ")
    with open("rows.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted((row["method"], row["seed"]) for row in rows) == [
        ("kd", "0"), ("kd", "1"), ("scratch", "0"), ("scratch", "1")
    ]  # fmt: skip


def test_leaderboard_of_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["leaderboard"]) == 2
    assert "work_dirs/runs" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "program",
    [
        "import kdzoo; kdzoo.__version__, dir(kdzoo)",
        "from kdzoo import cli; assert cli.main(['--help']) == 0",
        "from kdzoo import cli; assert cli.main(['bench', '--help']) == 0",
        "from kdzoo import cli; assert cli.main(['--version']) == 0",
        "from kdzoo import cli; assert cli.main(['bench', '--epoch', '3']) == 2",
    ],
)
def test_import_and_help_bring_nothing_heavy(program: str, tmp_path: Path) -> None:
    check = "import sys; heavy = {'torch', 'mmengine', 'torchvision', 'numpy', 'sklearn'} & set(sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", f"{program}\n{check}\nassert not heavy, heavy"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("module", ["kdzoo", "kdzoo.bench"])
def test_modules_run_as_programs(module: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0
    assert not result.stderr
    assert ("--methods" in result.stdout) == (module == "kdzoo.bench")
