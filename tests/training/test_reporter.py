"""What people read while something trains."""

import re

import pytest
from tinyzoo import Bench

from kdzoo import api, cli
from kdzoo.results.words import counted
from kdzoo.training.reporter import PlainReporter


@pytest.mark.parametrize(
    ("number", "things", "words"),
    [
        (1, "epochs", "1 epoch"),
        (2, "epochs", "2 epochs"),
        (0, "teacher passes", "0 teacher passes"),
        (1, "teacher passes", "1 teacher pass"),
        (1, "test images", "1 test image"),
    ],
)
def test_one_is_no_plural(number: int, things: str, words: str) -> None:
    assert counted(number, things) == words


def test_no_line_of_a_run_says_one_things(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--epochs", "1", "--cfg-options", "recipe.batch_size=40")
    assert cli.main(bench.command("kd", *options, "--dry-run")) == 0
    dry = capsys.readouterr().out
    assert "student tiny_student: 1 epoch, batch size 40" in dry
    assert "(resnet8, 1 epoch)" in dry
    assert cli.main(bench.command("kd", *options)) == 0
    said = capsys.readouterr().out
    assert "tiny, seed 0: kd for 1 epoch of 1 step\n" in said
    assert "tiny, seed 0: 1 student, 1 step, 1 teacher pass\n" in said
    assert not re.search(r"\b1 (epochs|steps|students|images|teacher passes)\b", dry + said)


def test_a_line_says_of_what_its_times_are(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    planned = api.plan(**bench.options("scratch", epochs=2))
    api.execute(planned, threads=1, reporter=PlainReporter())
    first, last = re.findall(r"  epoch .*", capsys.readouterr().out)
    assert re.fullmatch(r"  epoch 1/2  scratch [\d.]+  \(\d+\.\d s an epoch, \d+:\d\d left\)", first)
    assert re.fullmatch(r"  epoch 2/2  scratch [\d.]+  \(\d+\.\d s an epoch\)", last)
