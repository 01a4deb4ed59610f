"""What a start of `kdzoo bench` spares itself, and what it leaves to its caller. No time is measured here."""

from __future__ import annotations

import gc
import sys
from typing import Any

import pytest
from tinyzoo import Bench

from kdzoo import api, cli


def test_the_collector_rests_until_training_and_the_caller_gets_all_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, tuple[bool, bool]] = {}

    def spied(name: str) -> Any:
        real = getattr(api, name)

        def spy(*given: Any, **options: Any) -> Any:
            seen[name] = gc.isenabled(), gc.get_freeze_count() > 0
            return real(*given, **options)

        return spy

    for name in ("plan", "execute"):
        monkeypatch.setattr(api, name, spied(name))
    assert cli.main(bench.command("scratch", "--epochs", "1")) == 0
    assert not seen["plan"][0]
    assert seen["execute"] == (True, True)
    assert (gc.isenabled(), gc.get_freeze_count()) == (True, 0)
    assert cli.main(bench.command("nothing-of-the-kind")) == 2
    assert (gc.isenabled(), gc.get_freeze_count()) == (True, 0)


def test_a_collector_that_is_off_stays_off(bench: Bench) -> None:
    gc.disable()
    try:
        assert cli.main(bench.command("scratch", "--dry-run")) == 0
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_training_needs_no_figure(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert bench.run("scratch", epochs=1).rows
