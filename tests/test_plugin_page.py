"""docs/plugins.md shows plug-ins that work as they stand there, and lists what there is."""

import re
import sys
from pathlib import Path

import pytest

import kdzoo
from kdzoo import checks, plugins
from kdzoo.checks import UsageError
from kdzoo.registry import DATASETS, DISTILLERS, MODELS, SOURCES

PAGE = (Path(__file__).parent.parent / "docs" / "plugins.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
SMALL = {
    "teacher_epochs": 1, "cae_epochs": 1, "threads": 1, "device": "cpu",
    "cfg_options": {"teacher.network.type": "resnet8", "recipe.batch_size": 50},
}  # fmt: skip


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Load every plug-in of the page; they are gone after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "_files", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    for registry in (DISTILLERS, SOURCES, MODELS, DATASETS):
        registry.names()
        monkeypatch.setattr(registry, "_module_dict", dict(registry.module_dict))
    for number, block in enumerate(BLOCKS):
        Path(f"block{number}.py").write_text(block)
        kdzoo.load_plugin(f"block{number}.py")


def test_what_the_page_shows_trains_together(page):
    methods = ["scratch", "pooled:warmup=2", "kd+alike:share=0.3", "dkd+alike"]
    results = kdzoo.run(data="stripes:count=100:noise=3", methods=methods, epochs=2, **SMALL)
    assert {r.method: r.status for r in results.records} == dict.fromkeys(methods, "done")
    assert [bool(r.artifacts) for r in results.records] == [False, True, True, True]
    assert results.records[0].settings["data"]["train"] == 100


def test_a_pair_is_refused_as_the_page_says(page):
    with pytest.raises(UsageError, match="must have 2 channels or more, got 1"):
        DISTILLERS.find("pooled").for_setting(
            type("Setting", (), {"student": type("S", (), {"stages": [(1, 2, 2)]}),
                                 "teacher": type("S", (), {"stages": [(4, 2, 2)]})})
        )  # fmt: skip


def test_the_named_annotations_are_those_that_there_are():
    named = {n for n, v in vars(checks).items() if hasattr(v, "__metadata__")}
    assert named
    assert all(f"`{name}`" in PAGE for name in named)


def test_fields_are_named_as_they_are():
    from kdzoo.outputs import Batch, ModelOutput, Progress, Setting

    for kind in (Batch, ModelOutput, Progress):
        assert all(f"`{field}`" in PAGE for field in kind._fields), kind
    assert {"student", "teacher", "teacher_head", "classes", "labels"} < set(Setting._fields)
