"""README and leaderboard say what is so: tables come from committed records, and what is shown there runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

import kdzoo
from kdzoo.cli import _parser
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


def test_python_of_the_readme_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    run = kdzoo.run
    small = {"epochs": 1, "teacher_epochs": 1, "cae_epochs": 1, "threads": 1, "device": "cpu"}
    small["cfg_options"] = {"teacher.network.type": "resnet8"}
    monkeypatch.setattr(kdzoo, "run", lambda **options: run(**options, **small), raising=False)
    logits = torch.randn(4, 10)
    names = {"student_logits": logits, "teacher_logits": logits + 1, "labels": torch.arange(4)}
    first, second = blocks("python")
    exec(first, names)
    assert [row["method"] for row in names["rows"]] == ["dkd", "reffakd"]
    assert len(names["records"]) == 6
    exec(second, names)
    # A constant on all logits changes no distribution.
    torch.testing.assert_close(names["loss"], torch.tensor(0.0), atol=1e-5, rtol=0)


def test_links_of_the_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    for page in pages:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
