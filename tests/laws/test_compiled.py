"""Laws 1 and 3 for compiled runs: alone, in a cohort and resumed, a member has the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tinyzoo import Bench

from kdzoo.training.execution import _compiler_fault
from kdzoo.training.loop import CohortHook

FAULT = _compiler_fault(torch.device("cpu"))


@pytest.mark.skipif(FAULT is not None, reason=str(FAULT))
def test_a_compiled_member_is_the_same_alone_in_a_cohort_and_resumed(
    zoo: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What one run compiles the next one finds; a cache of their own, so that this holds anywhere.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    # A teacher of two stages: compiling takes all the time here.
    bench = Bench(tmp_path, 'teacher["network"] = dict(type="tiny_student", width=8)\n')
    assert not bench.run("scratch,kd", compile="on").failed
    whole = bench.contents()
    assert len(whole) == 2
    assert all(record["settings"]["precision"] == "float32, compiled" for record, _ in whole.values())

    assert not bench.run("kd", work="alone", compile="on").failed
    assert bench.contents("alone") == {member: found for member, found in whole.items() if member[0] == "kd"}

    after = CohortHook.after_train_epoch

    def interrupted(self: CohortHook, runner: object) -> None:
        after(self, runner)
        if [m.name for m in self._cohort.members] == ["scratch", "kd"]:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CohortHook, "after_train_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bench.run("scratch,kd", work="resumed", compile="on")
    assert not bench.contents("resumed")
    assert len(list((tmp_path / "resumed").rglob("checkpoint-000001-*.safetensors"))) == 2
    assert not bench.run("scratch,kd", work="resumed", compile="on").failed
    assert bench.contents("resumed") == whole

    # And it is compiled: the usual kernels round otherwise.
    bench.run("kd", work="usual")
    assert bench.contents("usual")["kd", 0][1] != whole["kd", 0][1]
