"""Students leave the zoo: weights that others load, programs that need no kdzoo."""

import builtins
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors
import timm
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

import kdzoo
from kdzoo import cli
from kdzoo.checks import KdzooError, UsageError
from kdzoo.data import Split
from kdzoo.students import export_student, load_student

from .conftest import CLASSES, NETWORKS, pictures


@pytest.fixture
def images():
    """Images [N, C, H, W] uint8, other ones than the export was compared on."""
    return np.ascontiguousarray(pictures(7, seed=5)[0].transpose(0, 3, 1, 2))


def expected(student, images):
    return student.logits(Split(images, np.zeros(len(images), np.int64)))


def normalised(student, images):
    mean, std = (torch.tensor(v)[:, None, None] for v in (student.sheet.mean, student.sheet.std))
    return (torch.from_numpy(images).float() / 255 - mean) / std


@pytest.mark.parametrize("kind", NETWORKS)
def test_onnx_gives_the_same_logits_under_onnxruntime(runs, exported, images, kind):
    student = load_student("scratch", work_dir=runs / kind)
    file = exported(kind) / "model.onnx"
    session = onnxruntime.InferenceSession(str(file))
    for count in (1, 7):
        (logits,) = session.run(["logits"], {"images": images[:count]})
        assert logits.dtype == np.float32
        assert np.abs(logits - expected(student, images[:count]).numpy()).max() < 1e-4
    about = {p.key: json.loads(p.value) for p in onnx.load(file).metadata_props}
    assert about["classes"] == list(CLASSES)
    assert about["kdzoo"]["record"] == student.record.key


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_torch_program_gives_the_same_logits(runs, exported, images, kind):
    student = load_student("scratch", work_dir=runs / kind)
    program = torch.export.load(exported(kind) / "model.pt2").module()
    for count in (1, 7):
        logits = program(torch.from_numpy(images[:count]))
        assert (logits - expected(student, images[:count])).abs().max() < 1e-4


def test_a_torch_program_is_loaded_where_there_is_no_kdzoo(runs, exported, tmp_path, images):
    student = load_student("scratch", work_dir=runs / "timm")
    file = str(exported("timm") / "model.pt2")
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys; sys.modules['kdzoo'] = sys.modules['timm'] = None\n"
        "import numpy, torch\n"
        f"program = torch.export.load({file!r}).module()\n"
        "numpy.save('logits.npy', program(torch.from_numpy(numpy.load('images.npy'))).detach().numpy())\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert np.abs(np.load(tmp_path / "logits.npy") - expected(student, images).numpy()).max() < 1e-4


@pytest.mark.parametrize("kind", ["timm", "transformer"])
def test_timm_takes_the_weights_of_a_timm_student(runs, tmp_path, images, kind):
    student = load_student("scratch", work_dir=runs / kind)
    export_student(student, "safetensors", tmp_path)
    name = NETWORKS[kind].removeprefix("timm:")
    arguments = {"img_size": 32} if kind == "transformer" else {}
    plain = timm.create_model(name, num_classes=3, **arguments)
    plain.load_state_dict(load_file(tmp_path / "model.safetensors"))
    with torch.no_grad():
        logits = plain.eval()(normalised(student, images))
    torch.testing.assert_close(logits, expected(student, images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["timm", "transformer"])
def test_timm_reads_the_folder_by_itself(runs, tmp_path, images, kind):
    student = load_student("scratch", work_dir=runs / kind)
    export_student(student, "safetensors", tmp_path)
    plain = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.no_grad():
        logits = plain(normalised(student, images))
    torch.testing.assert_close(logits, expected(student, images), rtol=1e-4, atol=1e-4)
    assert plain.pretrained_cfg["label_names"] == list(CLASSES)
    data = timm.data.resolve_data_config(plain.pretrained_cfg)
    assert data["mean"] == pytest.approx(student.sheet.mean)
    assert data["input_size"] == (3, 32, 32)


def test_torchvision_takes_the_weights_of_its_student(runs, tmp_path, images):
    student = load_student("scratch", work_dir=runs / "torchvision")
    export_student(student, "safetensors", tmp_path)
    plain = torchvision.models.get_model("resnet18", num_classes=3)
    plain.load_state_dict(load_file(tmp_path / "model.safetensors"))
    with torch.no_grad():
        logits = plain.eval()(normalised(student, images))
    torch.testing.assert_close(logits, expected(student, images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_code_of_the_model_card_runs(runs, exported, images, kind, monkeypatch):
    student = load_student("scratch", work_dir=runs / kind)
    monkeypatch.chdir(exported(kind))
    card = Path("README.md").read_text()
    blocks = [block.split("```")[0] for block in card.split("```python\n")[1:]]
    assert len(blocks) == 3
    for block, given in zip(blocks, (images, images, torch.from_numpy(images)), strict=True):
        names = {"images": given}
        exec(block, names)
        if "network" in names:
            returned = names["network"].eval()(normalised(student, images))
            logits = returned.logits if hasattr(returned, "logits") else returned
        else:
            logits = torch.as_tensor(names["logits"])
        assert (logits - expected(student, images)).abs().max() < 1e-4


def test_the_model_card_says_what_it_is(runs, tmp_path):
    student = load_student("scratch", work_dir=runs / "zoo")
    export_student(student, "safetensors", tmp_path)
    card = (tmp_path / "README.md").read_text()
    record = student.record
    for words in (
        "# resnet8 under scratch", "Data: pets, 48 training and 12 test images, 3 classes",
        "Method: scratch, seed 0",
        f"Accuracy: {record.accuracy['last']:.2f} % of the test images", f"Record: {record.key}",
        "0 cat, 1 dog, 2 cow", "Images of 3 channels and 32x32 pixels", f"mean {student.sheet.mean[0]:.6g}",
    ):  # fmt: skip
        assert words in card
    with safetensors.safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["kdzoo"])
    assert about["record"] == record.key
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["label_names"] == list(CLASSES)
    assert config["pretrained_cfg"]["std"] == list(student.sheet.std)


def test_the_command_writes_to_a_folder_named_after_the_run(runs, in_an_empty_folder, capsys):
    student = load_student("scratch", work_dir=runs / "zoo")
    assert cli.main(["export", str(student.folder)]) == 0
    folder = f"exports/resnet8-scratch-{student.record.key[:8]}"
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said] == [
        f"{folder}/{name}" for name in ("model.safetensors", "config.json", "README.md")
    ]
    assert sorted(p.name for p in (in_an_empty_folder / folder).iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip


def test_nothing_of_somebody_else_is_written_over(bench, tmp_path):
    bench.run("scratch,kd")
    scratch, kd = (load_student(m, work_dir=bench.folder / "work") for m in ("scratch", "kd"))
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "README.md").write_text("# My own project")
    with pytest.raises(UsageError, match=r"that are not of this student: README\.md\. Name another"):
        export_student(scratch, "safetensors", folder)
    assert [(p.name, p.read_text()) for p in folder.iterdir()] == [("README.md", "# My own project")]
    (folder / "README.md").unlink()
    (folder / "notes.txt").write_text("mine")
    for form in ("safetensors", "safetensors", "torch"):
        export_student(scratch, form, folder)
    assert "`model.pt2`" in (folder / "README.md").read_text()
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(UsageError, match="not of this student"):
        export_student(kd, "safetensors", folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_a_student_judged_in_bf16_is_exported_in_float32(bench, tmp_path, form):
    bench.run("scratch", precision="bf16")
    student = load_student("scratch", work_dir=bench.folder / "work")
    assert "largest difference" in export_student(student, form, tmp_path)[0]
    assert "computed in bf16; the files here compute in float32" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    "network", ["module:plain_of_a_user.Plain", "torchvision:squeezenet1_1", "narrow_of_a_user"]
)
def test_the_card_of_any_network_runs(tmp_path, network, monkeypatch, registries_as_before):
    """Where kdzoo builds the network, too: modules, torchvision's on grey images, plug-ins."""
    (tmp_path / "narrow.py").write_text(NARROW)
    (tmp_path / "plain_of_a_user.py").write_text(PLAIN)
    monkeypatch.syspath_prepend(tmp_path)
    if network in NARROW:
        kdzoo.load_plugin(tmp_path / "narrow.py")
    data = kdzoo.from_arrays(*grey(12), *grey(6), classes=CLASSES)
    results = kdzoo.run(
        data=data, methods="scratch", student=network, epochs=1, work_dir=tmp_path / "work", device="cpu",
        threads=1, cfg_options={"recipe.batch_size": 6, "recipe.optimizer.lr": 1e-3},
    )  # fmt: skip
    assert not results.failed
    student = load_student("scratch", work_dir=tmp_path / "work")
    export_student(student, "safetensors", tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    card = Path("README.md").read_text()
    names = {}
    exec(card.split("```python\n")[1].split("```")[0], names)
    assert ("load_plugin" in card) == (network in NARROW)
    seen = np.ascontiguousarray(grey(5)[0][:, None])
    with torch.no_grad():
        logits = names["network"].eval()(normalised(student, seen)).logits
    torch.testing.assert_close(logits, expected(student, seen))


def grey(count):
    """Images [N, 32, 32] and their classes."""
    draw = np.random.default_rng(0)
    return draw.integers(0, 255, (count, 32, 32), np.uint8), np.arange(count) % len(CLASSES)


PLAIN = """
from torch import nn

class Plain(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4, num_classes)

    def forward(self, images):
        return self.fc(self.conv(images).relu().mean((2, 3)))
"""
NARROW = """
from torch import nn

from kdzoo import ModelOutput
from kdzoo.registry import MODELS


@MODELS.register("narrow_of_a_user")
class Narrow(nn.Module):
    def __init__(self, num_classes, channels, size):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(channels, 4, 3), nn.Linear(4, num_classes)

    def forward(self, images):
        embedding = self.conv(images).relu().mean((2, 3))
        return ModelOutput(self.fc(embedding), embedding)
"""


def test_a_missing_package_is_named(runs, tmp_path, monkeypatch):
    student = load_student("scratch", work_dir=runs / "zoo")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n.startswith("onnx") else real(n, *a)
    )
    with pytest.raises(
        UsageError, match=r"needs onnx and onnxscript\. Run pip install 'kdzoo\[export\]' first"
    ):
        export_student(student, "onnx", tmp_path)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "onnxruntime" else real(n, *a)
    )
    assert "not compared" in export_student(student, "onnx", tmp_path)[0]


class Stubborn(nn.Module):
    """Decides by what it sees: no program can be made of it."""

    def forward(self, images):
        if images.mean().item() > 0:
            return kdzoo.ModelOutput(images.mean(dim=(2, 3)))
        return kdzoo.ModelOutput(images.amax(dim=(2, 3)))


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_a_network_that_cannot_be_exported_is_told_in_a_line_and_nothing_is_written(runs, tmp_path, form):
    student = load_student("scratch", work_dir=runs / "zoo")
    student.network.forward = Stubborn().forward
    with pytest.raises(KdzooError) as caught:
        export_student(student, form, tmp_path)
    assert f"this network cannot be written as {form}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_program_with_other_logits_is_not_written(runs, tmp_path, monkeypatch):
    student = load_student("scratch", work_dir=runs / "zoo")
    real = type(student).logits
    monkeypatch.setattr(type(student), "logits", lambda *given: real(*given) + 0.01)
    with pytest.raises(KdzooError, match=r"the logits of the torch program lie 1\.0e-02 from the student's"):
        export_student(student, "torch", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_exporters_say_nothing_of_their_own(runs, tmp_path, capsys):
    student = load_student("scratch", work_dir=runs / "zoo")
    for form in ("onnx", "torch", "safetensors"):
        export_student(student, form, tmp_path)
    assert capsys.readouterr() == ("", "")
    assert builtins.print is print
