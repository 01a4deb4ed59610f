"""Students that are more than the bare network: loaded, judged again, and exported."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import kdzoo
from kdzoo.checks import UsageError
from kdzoo.data import Dataset, Split
from kdzoo.results.record import Record
from kdzoo.students import export_student, load_student
from kdzoo.students.student import deploying


def pictures(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = draw.integers(0, 100, (count, 32, 32, 3), np.uint8)
    images[np.arange(count), :, :, labels] += 150
    return images, labels


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record, Dataset]:
    """A finished run of simkd and one of scratch, in one work directory."""
    work = tmp_path_factory.mktemp("simkd")
    data = kdzoo.from_arrays(*pictures(48), *pictures(12, seed=1), classes=("cat", "dog", "cow"), name="pets")
    results = kdzoo.run(
        data=data, methods="simkd,scratch", student="resnet8", teacher="resnet8", epochs=2, teacher_epochs=2,
        work_dir=work, threads=1, device="cpu", cfg_options={"recipe.batch_size": 16},
    )  # fmt: skip
    assert not results.failed
    return work, results.records[0], data


def test_a_loaded_student_is_as_accurate_as_its_record_says(run):
    work, record, data = run
    student = load_student("simkd", work_dir=work)
    found = (student.logits(data.test).argmax(dim=1).numpy() == data.test.labels).mean() * 100
    assert found == pytest.approx(record.accuracy["last"])
    assert {name.partition(".")[0] for name in student.network.state_dict()} == {
        "student", "projector", "classifier", "places",
    }  # fmt: skip
    assert deploying(record).__name__ == "SimKD"
    assert deploying(load_student("scratch", work_dir=work).record) is None


def test_weights_that_are_no_such_students_are_refused(run):
    work, record, _ = run
    bare = load_student("scratch", work_dir=work)
    with pytest.raises(UsageError, match=r"^simkd: the weights must be a student's, a projector's"):
        deploying(record).redeployed(bare.network, bare.network.state_dict())


def test_the_card_of_an_export_builds_it(run, tmp_path, monkeypatch):
    work, _, data = run
    student = load_student("simkd", work_dir=work)
    for form in ("safetensors", "torch"):
        export_student(student, form, tmp_path)
    card = (tmp_path / "README.md").read_text()
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(card.split("```python\n")[1].split("```")[0], names)
    split = Split(data.test.images[:4], data.test.labels[:4])
    images, _ = next(iter(student.feed(split).chunks(4)))
    with torch.no_grad():
        found = names["network"].eval()(images).logits
    torch.testing.assert_close(found, student.logits(split))
    assert load_file("model.safetensors").keys() == student.network.state_dict().keys()
    assert '"architecture": "simkd of resnet8"' in (tmp_path / "config.json").read_text()
    program = torch.export.load("model.pt2").module()
    torch.testing.assert_close(program(torch.from_numpy(split.images)), found, rtol=1e-4, atol=1e-4)
