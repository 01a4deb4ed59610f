"""benchmarks/figure: drawn from records of one protocol alone, with every method's name."""

import importlib
import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture
def figure(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.figure.__main__")


def test_every_method_has_a_name_that_touches_no_other(
    figure: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setattr(pyplot, "close", lambda drawn: None)
    assert figure.main([str(RESULTS / "digits"), "--output", str(tmp_path / "made" / "digits.png")]) == 0
    assert (tmp_path / "made" / "digits.png").read_bytes().startswith(b"\x89PNG")
    drawn = pyplot.gcf()
    extent = pytest.importorskip("matplotlib.text").Text.get_window_extent
    texts = {text.get_text(): extent(text) for text in drawn.axes[0].texts}
    pyplot.close("all")
    names = {"scratch", "at", "kd", "fitnet", "kdsvd", "pkt", "rkd", "dkd", "dkd+reffakd", "reffakd"}
    assert set(texts) == names
    boxes = list(texts.values())
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_a_method_at_chance_and_one_that_diverged_press_the_others_not_together(
    figure: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setattr(pyplot, "close", lambda drawn: None)
    results = tmp_path / "digits"
    shutil.copytree(RESULTS / "digits", results)
    (at,) = results.glob("seed0-at-*.json")
    record = json.loads(at.read_text())
    record["accuracy"]["last"] = record["epochs"][-1]["test"]["top1"] = 10.0
    at.write_text(json.dumps(record))
    (dkd,) = results.glob("seed0-dkd-*.json")
    record = json.loads(dkd.read_text())
    none = dict.fromkeys(record["accuracy"])
    dkd.write_text(json.dumps(record | {"status": "diverged", "epochs": [], "accuracy": none}))
    output = ["--protocol", "lenet5-e40-b64", "--output", str(tmp_path / "x.png")]
    assert figure.main([str(results), str(RESULTS / "fashion_mnist"), *output]) == 0
    axes = pyplot.gcf().axes[0]
    pyplot.close("all")
    texts = {text.get_text() for text in axes.texts}
    assert "at: 10.00" in texts
    assert "dkd" not in texts
    assert "diverged: dkd" in axes.get_xlabel()
    assert axes.get_ylim()[0] > 90
    assert "far below" in axes.get_legend().get_texts()[0].get_text()


def test_two_protocols_and_no_records_are_refused(
    figure: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [str(RESULTS / "digits"), str(RESULTS / "fashion_mnist"), "--output", str(tmp_path / "x.png")]
    assert figure.main(both) == 2
    assert "one protocol and one teacher, got digits, protocol" in capsys.readouterr().err
    shares = tmp_path / "shares"
    shutil.copytree(RESULTS / "digits", shares)
    for path in shares.glob("*.json"):
        path.write_text(path.read_text().replace("measured around the member", "share of the cohort's time"))
    assert figure.main([str(shares), "--output", str(tmp_path / "x.png")]) == 2
    assert "say nothing of a method" in capsys.readouterr().err
    for protocol in ("lenet5-e4", "resnet20"):
        assert figure.main([str(RESULTS / "digits"), "--protocol", protocol, *both[-2:]]) == 2
        assert f"no protocol begins with {protocol}; there are: digits" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert figure.main([str(tmp_path / "empty"), "--output", str(tmp_path / "x.png")]) == 2
    assert "there are no records" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()
