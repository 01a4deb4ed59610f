"""Laws 3 and 9: processes on one work directory train each member once, and corrupt nothing."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tinyzoo import EPOCHS, STEPS, Bench


@pytest.mark.parametrize(
    "commands",
    [
        ["kd,noisy,reffakd", "kd,noisy,reffakd", "kd,noisy,reffakd"],
        ["kd,noisy,scratch", "scratch,kd+uniform,kd"],
    ],
)
def test_processes_on_one_work_directory_train_each_member_once(
    bench: Bench, children: Any, together: dict, commands: list[str]
) -> None:
    logs = [bench.folder / f"log{i}" for i in range(len(commands))]
    started = [children.start(bench.command(c), log) for c, log in zip(commands, logs, strict=True)]
    for pid, log in zip(started, logs, strict=True):
        assert children.wait(pid) == 0, Path(f"{log}.err").read_text()
        assert not Path(f"{log}.err").read_text()
    names = {name for command in commands for name in command.split(",")}
    found = bench.contents()
    assert found == {(name, 0): together[name, 0] for name in names}
    steps = Counter(line for log in logs for line in log.read_text().splitlines())
    assert set(steps.values()) == {1}
    for name in names:
        assert sum(1 for step in steps if step.startswith(f"{name} 0 ")) == EPOCHS * STEPS
    assert sum(1 for step in steps if step.startswith("teacher")) == STEPS
