"""benchmarks/throughput: the command runs, and tables and plots come of records alone."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tinyzoo import Bench

ROOT = Path(__file__).parents[2]
METHODS = ["kd", "dkd", "reffakd", "at"]


@pytest.fixture
def throughput(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.throughput.__main__")


@pytest.fixture
def numbers(throughput: ModuleType) -> ModuleType:
    return importlib.import_module("benchmarks.throughput.numbers")


def sample(who: str, what: str, seconds: list[float], **parts: list[float]) -> dict[str, Any]:
    return {"who": who, "what": what, "precision": "float32", "seconds": seconds, "parts": parts}


def record(*samples: dict[str, Any]) -> dict[str, Any]:
    return {"methods": METHODS, "counts": [1, 4], "samples": list(samples)}


def test_the_command_measures_and_shows_from_the_record_alone(
    throughput: ModuleType, bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "torchdistill", None)
    command = [
        "measure", "--benchmark", str(bench.config), "--rounds", "1", "--counts", "1,9", "--device", "cpu",
        "--threads", "1", "--epoch-steps", "2", "--settle", "0", "--output", str(tmp_path / "out"),
        "--contestants", "limit,kdzoo,bank,alone,torchdistill,plain", "--precisions", "float32",
    ]  # fmt: skip
    assert throughput.main(command) == 0
    said = capsys.readouterr().out
    assert "32 of the 40 training images of tiny" in said
    (path,) = (tmp_path / "out").glob("*-tiny.json")
    found = json.loads(path.read_text())
    assert [line for line in found["left_out"] if "torchdistill" in line]
    timed = {(s["who"], s["what"]) for s in found["samples"]}
    assert {("limit", "1"), ("limit", "9"), ("kdzoo", "1"), ("kdzoo", "9")} < timed
    assert {("plain loop", m) for m in found["methods"]} < timed
    assert {("kdzoo, alone", m) for m in ("scratch", "reffakd", "kd, warm bank")} < timed
    # Whether a row of nine methods depends on its batch is the processor's to say.
    assert ("kdzoo, warm bank", "9") in timed or [n for n in found["left_out"] if "warm bank, 9" in n]
    assert ("kdzoo, warm bank", "1") in timed
    assert all(len(s["seconds"]) == 1 for s in found["samples"])
    assert set(found["bare"]) == {"teacher", *found["methods"]}
    assert set(found["ratios"]["over the limit"]["kdzoo, float32"]) == {"1", "9"}
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")

    # Another number in the record is another number in the table, whatever was measured.
    for s in found["samples"]:
        s["seconds"] = [321.0, 321.0]
    path.write_text(json.dumps(found))
    assert throughput.main(["show", str(path), "--output", str(tmp_path / "docs")]) == 0
    table = capsys.readouterr().out
    assert "| kdzoo, float32" in table
    assert "321 [321, 321]" in table
    assert (tmp_path / "docs" / f"{path.stem}.png").stat().st_size > 10_000


def test_whole_epochs_are_timed_in_turns_with_a_warm_bank(
    throughput: ModuleType, bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "epochs", "--benchmark", str(bench.config), "--epochs", "2", "--device", "cpu", "--threads", "1",
        "--output", str(tmp_path / "out"), "--work-dir", str(tmp_path / "work"),
    ]  # fmt: skip
    # A bank without its rows is not measured.
    assert throughput.main([*command, "--filled"]) == 2
    assert "the bank is not whole" in capsys.readouterr().err
    assert throughput.main(command) == 0
    (path,) = (tmp_path / "out").glob("epochs-*-tiny.json")
    found = json.loads(path.read_text())
    assert found["teacher passes"] == 0
    assert (found["steps"], found["evaluated"]) == (3, 20)
    seconds = {f"{who}, {clock}" for who in ("kdzoo", "bare") for clock in ("wall", "process")}
    assert all(len(found[name]) == 2 and min(found[name]) > 0 for name in seconds)
    found["kdzoo over bare"]["wall"]["ratio"] = 4.321
    path.write_text(json.dumps(found))
    capsys.readouterr()
    assert throughput.main(["show", str(path)]) == 0
    assert "4.321" in capsys.readouterr().out


def test_a_measurement_without_steps_is_refused(
    throughput: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert throughput.main(["measure", "--contestants", "memory"]) == 2
    assert "must have one that takes steps, such as limit" in capsys.readouterr().err


def test_a_mistake_is_answered_in_a_line(throughput: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert throughput.main(["measure", "--benchmark", "fashion_mnits"]) == 2
    assert "fashion_mnist" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        throughput.main(["measure", "--counts", "0,3"])
    assert "from 1 to 9" in capsys.readouterr().err


def test_one_method_after_another_is_charged_the_sum_and_kd_for_what_is_lacking(numbers: ModuleType) -> None:
    found = numbers.costs(
        record(
            sample("kdzoo", "1", [1.0, 2.0]),
            sample("kdzoo", "4", [3.0, 3.0]),
            sample("torchdistill, careful", "kd", [2.0, 4.0], training=[1.5, 3.5]),
            sample("torchdistill, careful", "at", [3.0, 6.0], training=[2.5, 5.5]),
        )
    )
    assert found["kdzoo, float32"] == {1: [1.0, 2.0], 4: [3.0, 3.0]}
    assert found["torchdistill, careful, float32"] == {1: [2.0, 4.0], 4: [2 + 2 + 2 + 3.0, 4 + 4 + 4 + 6.0]}


def test_without_loading_the_other_parts_remain(numbers: ModuleType) -> None:
    found = numbers.costs(record(sample("plain loop", "kd", [2.0], training=[1.5])), loading=False)
    assert found["plain loop, float32"] == {1: [1.5], 4: [6.0]}


def test_a_ratio_is_of_medians_with_the_quartiles_of_the_rounds(numbers: ModuleType) -> None:
    assert numbers.ratio([2.0, 4.0, 9.0], [1.0, 2.0, 3.0]) == {"ratio": 2.0, "low": 2.0, "high": 2.5}


def test_a_cohort_of_a_constant_and_its_members_leaves_no_residual(numbers: ModuleType) -> None:
    parts = {"teacher": [9.0], "kd": [1.0], "dkd": [2.0], "reffakd": [3.0], "at": [4.0]}
    own = record(
        sample("limit", "4", [19.0], **parts), sample("kdzoo", "1", [11.0]), sample("kdzoo", "4", [20.0])
    )
    own["memory"] = {"peak": {"1": 150, "4": 300}, "members": {"kd": 10, "dkd": 20, "reffakd": 30, "at": 50}}
    own["memory"]["order"] = METHODS
    assert numbers.adds_up(own)["time"] == {"constant": 10.0, "residual": 0.0}
    # 140 and 190 beside the members' own: 165 in the middle, 25 off, of 150.
    assert numbers.adds_up(own)["memory"] == {"constant": 165.0, "residual": round(25 / 150, 4)}


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ({"device": "cpu", "flags": ["avx2", "avx512_bf16", "avx512f"]}, "a-cpu-2-avx512-bf16-pair.json"),
        ({"device": "cpu", "flags": ["amx_bf16", "avx512_bf16"]}, "a-cpu-2-amx-bf16-pair.json"),
        ({"device": "cpu", "flags": ["avx2"]}, "a-cpu-2-avx2-pair.json"),
        ({"device": "cuda", "flags": ["avx512_bf16"]}, "a-cpu-2-pair.json"),
    ],
)
def test_records_of_unlike_processors_of_one_name_stand_apart(
    throughput: ModuleType, tmp_path: Path, flags: dict[str, Any], name: str
) -> None:
    measure = importlib.import_module("benchmarks.throughput.measure")
    machine = {"device_name": "A CPU (2)", "cpu_capability": "AVX2", **flags}
    assert measure.write({"machine": machine, "pair": {"name": "pair"}}, tmp_path).name == name


def test_memory_is_counted_by_torch_the_same_each_time(throughput: ModuleType) -> None:
    memory = importlib.import_module("benchmarks.throughput.memory")

    def work() -> None:
        kept = torch.zeros(1 << 18)
        for _ in range(3):
            # At its most: what is kept, the sum and its square, one MiB each.
            (kept + 1).square()

    assert memory.allocated(work) == memory.allocated(work) == 3 * 2**20


def test_sharing_is_what_a_teacher_pass_for_each_method_would_add(numbers: ModuleType) -> None:
    own = record(sample("limit", "4", [10.0], teacher=[6.0], kd=[1.0], dkd=[1.0], reffakd=[1.0], at=[1.0]))
    assert numbers.ratios(own)["apart"]["sharing: 4 teacher passes for one"]["ratio"] == (10 + 18) / 10


def test_the_limit_moves_its_own_copies_by_the_same_losses_and_leaves_the_cohort_alone(
    throughput: ModuleType, bench: Bench, tmp_path: Path
) -> None:
    limits, ours, pairs, clock = (
        importlib.import_module(f"benchmarks.throughput.{n}") for n in ("limit", "ours", "pair", "clock")
    )
    cpu = torch.device("cpu")
    pair = pairs.load_pair(str(bench.config), None, steps=2, work=tmp_path, device=cpu, lr=1e-3)
    with ours.cohort_of(pair, ["kd", "at"], "float32") as cohort:
        before = [p.clone() for m in cohort.members for p in m.network.parameters()]
        limit = limits.Limit(pair, cohort, ("float32", "float32"))
        limit.step(clock.Marks(cpu), ("kd",))
        after = [p for m in cohort.members for p in m.network.parameters()]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        moved = {n: not torch.equal(next(b.network.parameters()), before[0]) for n, b in limit.bare.items()}
        assert moved == {"kd": True, "at": False}
        # Weights and momentum in float32; the buffers are batch norms'.
        weights = sum(p.numel() for p in pair.student().parameters())
        assert 8 * weights < limit.bare["kd"].resident < 12 * weights


def test_a_filled_bank_spares_the_teacher(throughput: ModuleType, bench: Bench, tmp_path: Path) -> None:
    ours, pairs = (importlib.import_module(f"benchmarks.throughput.{n}") for n in ("ours", "pair"))
    cpu = torch.device("cpu")
    pair = pairs.load_pair(str(bench.config), None, steps=2, work=tmp_path, device=cpu, lr=1e-3)
    bank = tmp_path / "bank"
    ours.fill_bank(pair, ["kd", "at"], "float32", bank)
    with ours.cohort_of(pair, ["at"], "float32", bank) as cohort:
        steps = ours.Steps(cohort)
        told = [steps() for _ in range(3)]
        assert cohort.teacher_passes == 0
    assert all(set(seconds) == {"shared", "at"} for seconds in told)
    assert set(ours.bytes_of_bank(pair, bank)) == {"at", "logits"}
    assert ours.bytes_of_bank(pair, bank)["logits"] >= 16
