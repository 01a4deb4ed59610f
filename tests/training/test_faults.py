"""A fault in somebody's code: one line that names the place, and the frames from there on."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest
from tinyzoo import Bench

from kdzoo import cli, plugins
from kdzoo.checks import UsageError
from kdzoo.registry import DISTILLERS, SOURCES
from kdzoo.training.faults import told, traceback_of

MINE = """
    import torch
    from kdzoo.distillers import Distiller
    from kdzoo.functional.divergences import cross_entropy
    from kdzoo.registry import DISTILLERS, SOURCES
    from kdzoo.sources.base import ClassSource

    @DISTILLERS.register("badcat")
    class BadCat(Distiller):
        def forward(self, student, guide, batch, progress):
            return {"badcat": self.paired(student.logits)}

        def paired(self, logits):
            return torch.cat([logits, logits[:, :1]]).mean()  # here

    @DISTILLERS.register("badcall")
    class BadCall(Distiller):
        def forward(self, student, guide, batch, progress):
            return {"badcall": cross_entropy(student.logits, batch.images).mean()}  # there

    @SOURCES.register("badrows")
    class BadRows(ClassSource):
        def rows(self, workshop):
            return torch.eye(workshop.num_classes) / workshop.nothing  # elsewhere
"""


@pytest.fixture
def plugin(zoo: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for registry in (DISTILLERS, SOURCES):
        registry.names()
        monkeypatch.setattr(registry, "_module_dict", dict(registry.module_dict))
    monkeypatch.setattr(plugins, "_files", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = tmp_path / "mine.py"
    file.write_text(textwrap.dedent(MINE))
    return file


@pytest.mark.parametrize(
    ("method", "error", "mark", "frames"),
    [
        ("badcat", "RuntimeError: Sizes of tensors must match", "# here", ["forward", "paired"]),
        ("badcall", "RuntimeError: ", "# there", ["forward", "cross_entropy"]),
        ("kd+badrows", "AttributeError: ", "# elsewhere", ["rows"]),
    ],
)
def test_a_fault_begins_with_a_line_that_names_method_error_and_place(
    bench: Bench, plugin: Path, capsys: pytest.CaptureFixture[str],
    method: str, error: str, mark: str, frames: list[str],
) -> None:  # fmt: skip
    assert cli.main(bench.command(method, "--plugin", str(plugin))) == 1
    first, second, *rest = capsys.readouterr().err.strip().splitlines()
    number = next(n for n, line in enumerate(plugin.read_text().splitlines(), 1) if mark in line)
    assert first.startswith(f"{method}, seed 0 failed: {error}")
    assert first.endswith(f"({plugin}:{number})")
    assert second == "Traceback (most recent call last):"
    shown = [line for line in rest if line.startswith("  File ")]
    assert [line.rpartition(" in ")[2] for line in shown][: len(frames)] == frames
    assert str(plugin) in shown[0]
    assert rest[-1] == "What failed has no record; the same command tries it again."


def test_python_says_the_place_too(bench: Bench, plugin: Path) -> None:
    plugins.load_plugin(plugin)
    assert f" ({plugin}:" in str(bench.run("badcat"))


def test_a_fault_without_code_of_the_users_keeps_all_frames() -> None:
    with pytest.raises(TypeError) as caught:
        textwrap.dedent(3)
    fault = caught.value
    fault.__traceback__ = fault.__traceback__.tb_next  # without this test's own frame
    assert told(fault) == "TypeError: expected string or bytes-like object, got 'int'"
    assert "textwrap.py" in traceback_of(fault)


def test_what_is_raised_on_purpose_is_its_message() -> None:
    fault = UsageError("kd: alpha must be less.")
    assert (told(fault), traceback_of(fault)) == ("kd: alpha must be less.", "")
