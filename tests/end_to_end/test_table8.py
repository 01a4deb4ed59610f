"""Table 8 whole: its nine methods in one cohort, on the tiny zoo and on a pair of the paper's size."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
from tinyzoo import EPOCHS, STEPS, Bench

from kdzoo import api, cli
from kdzoo.data import Dataset, Split
from kdzoo.data.pipeline import Pipeline
from kdzoo.methods import TABLE8
from kdzoo.models import build_model
from kdzoo.registry import DATASETS
from kdzoo.results.record import Record

NAMES = ["scratch", *TABLE8]
CIFAR_LIKE = """
data = dict(type="arrays")
views = dict(crop_padding=4, flip=True, rotation=15.0)
student = dict(network=dict(type="resnet18"))
teacher = dict(network=dict(type="resnet50"))
autoencoder = dict(network=dict(type="autoencoder"))
sources = dict(reffakd=dict(per_class=2))
recipe = dict(
    epochs=1,
    batch_size=4,
    optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=5e-4),
    param_scheduler=[dict(type="MultiStepLR", milestones=[1], gamma=0.2)],
    schedule_epochs=1,
)
"""


def records(work: Path) -> dict[str, Record]:
    found = [Record.from_json(p.read_text(), str(p)) for p in work.glob("runs/*/*/*/*/record.json")]
    return {record.method: record for record in found}


def test_nine_methods_share_one_teacher_pass_a_step_and_stand_in_the_papers_order(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(bench.command("table8")) == 0
    answer = capsys.readouterr()
    assert not answer.err
    steps = EPOCHS * STEPS
    assert f"tiny, seed 0: 10 students, {steps} steps, {steps} teacher passes" in answer.out
    found = records(bench.folder / "work")
    assert set(found) == set(NAMES)
    for record in found.values():
        assert record.status == "done"
        assert record.timing["members"] == len(NAMES)
        assert (record.timing["steps"], record.timing["teacher_passes"]) == (steps, steps)
    page = (bench.folder / "work" / "leaderboard.md").read_text()
    (header,) = [line for line in page.splitlines() if "dkd+reffakd" in line and line.startswith("|")][:1]
    columns = [cell.strip(" *") for cell in header.strip("|").split("|")]
    shown = [c for c in columns if c in TABLE8]
    assert shown == list(TABLE8)


def test_a_record_says_which_stages_were_paired(bench: Bench) -> None:
    bench.run("at,fitnet,pkt", epochs=1)
    found = records(bench.folder / "work")
    at, fitnet = (found[name].settings["method"]["pairs"] for name in ("at", "fitnet"))
    # resnet8 has three stages, the student two: they meet at the teacher's second and third.
    assert [(p["student_stage"], p["teacher_stage"]) for p in at] == [(1, 2), (2, 3)]
    assert at[0] == fitnet[0]
    assert set(at[0]) == {"student_stage", "student_shape", "teacher_stage", "teacher_shape", "pooled_to"}
    assert "pairs" not in found["pkt"].settings["method"]


def test_an_adapter_is_trained_and_stays_out_of_the_students_weights(bench: Bench) -> None:
    bench.run("scratch,fitnet", epochs=1)
    weights = {
        p.parent.name.split("-")[0]: safetensors.torch.load_file(p)
        for p in (bench.folder / "work").glob("runs/*/*/*/*/student.safetensors")
    }
    assert weights["fitnet"].keys() == weights["scratch"].keys()
    found = records(bench.folder / "work")
    assert found["fitnet"].parameters == found["scratch"].parameters


@pytest.fixture
def arrays(tmp_path: Path) -> Any:
    """A data set read from arrays: two images of each of 100 classes, 3x32x32."""
    draw = np.random.default_rng(3)
    for name, count in (("train", 200), ("test", 5)):
        np.save(tmp_path / f"{name}_images.npy", draw.integers(0, 256, (count, 3, 32, 32), np.uint8))
        np.save(tmp_path / f"{name}_labels.npy", np.arange(count, dtype=np.int64) % 100)

    def read(root: Path | None) -> Dataset:
        def split(name: str) -> Split:
            return Split(*(np.load(tmp_path / f"{name}_{part}.npy") for part in ("images", "labels")))

        return Dataset("arrays", split("train"), split("test"), tuple(f"c{i}" for i in range(100)))

    DATASETS.register("arrays")(read)
    yield
    DATASETS._module_dict.pop("arrays")


def test_resnet50_to_resnet18_with_100_classes_survives_steps_of_all_nine(
    arrays: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An epoch of all 200 images takes minutes on one core; two batches of it say as much here.
    monkeypatch.setattr(Pipeline, "steps", property(lambda self: 2))
    config, teacher = tmp_path / "pair.py", tmp_path / "teacher.safetensors"
    config.write_text(CIFAR_LIKE)
    network = build_model("resnet50", num_classes=100, channels=3, size=32)
    safetensors.torch.save_file(network.state_dict(), teacher)
    results = api.run(
        benchmark=str(config), methods="table8", work_dir=tmp_path / "work", device="cpu", threads=1,
        teacher_checkpoint=teacher,
    )  # fmt: skip
    assert not results.failed
    assert [r.method for r in results.records] == NAMES
    for record in results.records:
        assert record.status == "done"
        assert all(v is not None for epoch in record.epochs for v in epoch["train"].values()), record.method
        assert (record.timing["steps"], record.timing["teacher_passes"]) == (2, 2)
        assert record.parameters == 11_220_132
    pairs = results.records[NAMES.index("kdsvd")].settings["method"]["pairs"]
    assert [(p["student_stage"], p["teacher_stage"]) for p in pairs] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert [p["student_shape"][0] for p in pairs] == [64, 128, 256, 512]
    assert [p["teacher_shape"][0] for p in pairs] == [256, 512, 1024, 2048]
