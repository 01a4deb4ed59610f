"""README and leaderboard say what is so: tables come from committed records, and what is shown there runs."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kdzoo
from kdzoo.cli import _parser
from kdzoo.registry import DISTILLERS
from kdzoo.results.leaderboard import leaderboard, terminal_table
from kdzoo.results.store import read_records

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
RESULTS = ROOT / "benchmarks" / "results"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("benchmark", ["digits", "fashion_mnist"])
def test_tables_of_the_readme_are_made_from_records(benchmark: str) -> None:
    table = terminal_table(read_records([RESULTS / benchmark]))
    assert any(block.strip() == table.strip() for block in blocks(""))


def test_leaderboard_is_made_from_committed_records_byte_for_byte() -> None:
    assert (ROOT / "leaderboard.md").read_text() == leaderboard(read_records([RESULTS]))


def test_commands_of_the_readme_are_accepted() -> None:
    commands = [
        line
        for block in blocks("")
        for line in block.splitlines()
        if re.match(r"(kdzoo|python -m kdzoo)", line)
    ]
    assert len(commands) >= 3
    for command in commands:
        words = shlex.split(command.split("#")[0])
        arguments = ["bench", *words[3:]] if words[2:3] == ["kdzoo.bench"] else words[1:]
        assert _parser().parse_args(arguments).command == arguments[0]


@pytest.fixture
def small_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """kdzoo.run as the README calls it, on few epochs and in an empty folder."""
    monkeypatch.chdir(tmp_path)
    run = kdzoo.run
    small = {"epochs": 1, "teacher_epochs": 1, "cae_epochs": 1, "threads": 1, "device": "cpu"}
    small["cfg_options"] = {"teacher.network.type": "resnet8"}
    monkeypatch.setattr(kdzoo, "run", lambda **options: run(**options, **small), raising=False)


def block_with(words: str) -> str:
    (found,) = [block for block in blocks("python") if words in block]
    return found


def test_every_python_block_is_run_by_a_test_below() -> None:
    assert len(blocks("python")) == 6


def test_benchmark_from_python(small_runs: None) -> None:
    names: dict[str, Any] = {}
    exec(block_with("kdzoo.run(benchmark="), names)
    assert [row["method"] for row in names["rows"]] == ["dkd", "reffakd"]
    assert len(names["records"]) == 6


def test_loop_of_ones_own() -> None:
    block = block_with("kdzoo.build_distiller")
    inside = [line for line in block.splitlines() if line and not line.startswith("import")]
    assert len(inside) <= 10
    torch.manual_seed(0)
    images, labels = torch.randn(4, 1, 32, 32), torch.arange(4)
    names: dict[str, Any] = {"loader": [(images, labels)] * 2, "epochs": 10}
    exec(block, names)
    untrained = kdzoo.build_model("lenet5", num_classes=10, channels=1, size=32)
    with torch.no_grad():
        before, after = (
            names["rkd"].loss(s(images), labels, teacher=names["teacher"](images), epoch=9, epochs=10)
            for s in (untrained, names["student"])
        )
    assert after < before


def test_pure_loss() -> None:
    logits = torch.randn(4, 10)
    names = {"student_logits": logits, "teacher_logits": logits + 1, "labels": torch.arange(4)}
    exec(block_with("import dkd_loss"), names)
    # A constant on all logits changes no distribution.
    torch.testing.assert_close(names["loss"], torch.tensor(0.0), atol=1e-5, rtol=0)


def test_arrays_of_ones_own(small_runs: None) -> None:
    draw = np.random.default_rng(0)
    names: dict[str, Any] = {}
    for part, count in (("train", 40), ("test", 10)):
        names[f"{part}_images"] = draw.integers(0, 256, (count, 32, 32, 3), np.uint8)
        names[f"{part}_labels"] = np.arange(count) % 2
    exec(block_with("kdzoo.from_arrays"), names)
    assert [r.method for r in names["results"].records] == ["scratch", "kd"]
    assert names["results"].records[0].settings["student"]["name"] == "resnet8"


def test_method_of_ones_own(small_runs: None, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = block_with("class Embed")
    assert len(text.splitlines()) < 30
    (tmp_path / "embed.py").write_text(text)
    path = list(sys.path)
    try:
        exec(block_with("kdzoo.load_plugin"), {})
    finally:
        DISTILLERS._module_dict.pop("embed", None)
        sys.path[:] = path
    shown = capsys.readouterr().out
    assert re.search(r"^embed +\d", shown, re.MULTILINE)
    assert re.search(r"^embed:weight=10 +\d", shown, re.MULTILINE)


def test_links_of_the_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    for page in pages:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
