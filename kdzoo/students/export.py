"""Export: a student's weights by name, or the whole student as one program that needs no kdzoo."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from kdzoo.checks import KdzooError, UsageError
from kdzoo.data import Split
from kdzoo.files import OUTPUT, write_atomic, write_json
from kdzoo.models.external import bare_network, logits_in
from kdzoo.outputs import ModelOutput
from kdzoo.results.store import slug
from kdzoo.students.card import FILES, card, config
from kdzoo.students.student import Student

# How far an exported program's logits may lie from the student's: absolute, and relative to the largest.
TOLERANCE = 1e-4


class WholeStudent(nn.Module):
    """From bytes to logits: the normalisation is part of it.

    Args:
        student: trained.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        # Without hooks for what nobody asks of a program.
        self.network = bare_network(student.network)
        sheet = student.sheet
        self.mean = nn.Buffer(torch.tensor(sheet.mean).view(-1, 1, 1))
        self.std = nn.Buffer(torch.tensor(sheet.std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Give [N, K] float32 logits of [N, C, H, W] uint8 images."""
        returned = self.network((images.to(torch.float32) / 255 - self.mean) / self.std)
        return returned.logits if isinstance(returned, ModelOutput) else logits_in(returned)


def export_student(student: Student, form: str, folder: Path | None = None) -> list[str]:
    """Write a student for use elsewhere: the model, config.json, and README.md, its model card.

    Args:
        student: trained; it is moved to the CPU.
        form: "safetensors", the weights by parameter name, those of timm or torchvision where the network is
            theirs; "onnx", or "torch" (torch.export), programs from uint8 [N, C, H, W] to logits [N, K].
        folder: where to; None takes exports/<network>-<method>-<key> in the current folder.

    Returns:
        What was written and checked, a line each.

    Raises:
        UsageError: a package is missing, an unknown form, a folder with files of something else, or a student
            whose code has changed since its training.
        KdzooError: the network cannot be exported in this form, or its logits come out different.
        StorageError: the folder cannot be written.
    """
    writers: dict[str, Callable[[Student], tuple[bytes, str]]] = {
        "safetensors": _weights, "onnx": _onnx, "torch": _program,
    }  # fmt: skip
    if form not in writers:
        raise UsageError(f"export: format must be {', '.join(writers)}, got {form!r}.")
    record = student.record
    name = slug(f"{record.settings['student']['name']}-{record.method}")
    folder = Path("exports") / f"{name}-{record.key[:8]}" if folder is None else folder
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"export: {folder} is a file. Name a folder by --output.")
    _check_free(folder, record.key)
    if student.changed:
        raise UsageError(f"export: {student.changed} Train it again, or bring the code back as it was.")
    student.network.cpu().eval()
    content, checked = writers[form](student)
    write_atomic(folder / FILES[form], content, OUTPUT)
    write_json(folder / "config.json", config(student), OUTPUT)
    present = [file for file in FILES.values() if (folder / file).is_file()]
    write_atomic(folder / "README.md", card(student, present).encode(), OUTPUT)
    return [f"{folder / FILES[form]}: {checked}", f"{folder / 'config.json'}: classes, sizes, normalisation",
            f"{folder / 'README.md'}: model card"]  # fmt: skip


def _check_free(folder: Path, key: str) -> None:
    """Check that nothing is in the way but earlier exports of the same student."""
    present = [f for f in (*FILES.values(), "config.json", "README.md") if (folder / f).exists()]
    try:
        known = json.loads((folder / "config.json").read_bytes())["kdzoo"]["record"] if present else key
    except (OSError, ValueError, KeyError, TypeError):
        known = None
    if known != key:
        raise UsageError(
            f"export: {folder} has files that are not of this student: {', '.join(present)}. Name another "
            "folder by --output, or take them away."
        )


def _weights(student: Student) -> tuple[bytes, str]:
    tensors = {
        k: v.detach().contiguous().clone() for k, v in bare_network(student.network).state_dict().items()
    }
    about = {"format": "pt", "kdzoo": json.dumps(config(student)["kdzoo"])}
    return safetensors.torch.save(tensors, about), f"{len(tensors)} tensors"


def _images(student: Student, count: int) -> Tensor:
    shape = (count, student.sheet.channels, student.sheet.size, student.sheet.size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _program(student: Student) -> tuple[bytes, str]:
    whole = WholeStudent(student).eval()
    with _quiet("torch"), torch.no_grad():
        program = torch.export.export(
            whole, (_images(student, 2),), dynamic_shapes={"images": {0: torch.export.Dim("batch")}}
        )
        buffer = BytesIO()
        torch.export.save(program, buffer, extra_files={"config.json": json.dumps(config(student))})
        again = torch.export.load(BytesIO(buffer.getvalue())).module()
        return buffer.getvalue(), _compared("torch", student, again)


def _onnx(student: Student) -> tuple[bytes, str]:
    missing = [p for p in ("onnx", "onnxscript") if importlib.util.find_spec(p) is None]
    if missing:
        raise UsageError(
            f"export: format onnx needs {' and '.join(missing)}. Run pip install 'kdzoo[export]' first."
        )
    import onnx

    whole = WholeStudent(student).eval()
    with _quiet("onnx"), torch.no_grad(), tempfile.TemporaryDirectory() as scratch:
        program = torch.onnx.export(
            whole, (_images(student, 2),), dynamo=True, verbose=False, input_names=["images"],
            output_names=["logits"], dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        )  # fmt: skip
        if program is None:
            raise KdzooError("export: torch gave no ONNX program.")
        program.save(Path(scratch) / "model.onnx", external_data=False)
        model = onnx.load(Path(scratch) / "model.onnx")
    about = config(student)
    model.producer_name = "kdzoo"
    onnx.helper.set_model_props(
        model, {"classes": json.dumps(about["label_names"]), "kdzoo": json.dumps(about["kdzoo"])}
    )
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    if importlib.util.find_spec("onnxruntime") is None:
        return content, "not compared with the student's logits, as onnxruntime is not installed"
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

    return content, _compared("onnx", student, run)


@contextmanager
def _quiet(form: str) -> Iterator[None]:
    """Export without the exporters' own words, and say in one line where they fail."""
    level = logging.root.manager.disable
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            logging.disable(logging.ERROR)
            yield
    except (KdzooError, KeyboardInterrupt, OSError, MemoryError):
        raise
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise KdzooError(
            f"export: this network cannot be written as {form}: {type(error).__name__}: {reason[:200]} "
            "Use --format safetensors."
        ) from error
    finally:
        logging.disable(level)


def _compared(form: str, student: Student, program: Callable[[Tensor], Tensor]) -> str:
    """Run a program on more images than it was made with, and say how far off its logits are.

    Programs compute in float32, whatever the student was judged in.
    """
    images = _images(student, 5)
    expected = student.logits(Split(images.numpy(), np.zeros(len(images), np.int64)), "float32")
    got = program(images)
    difference = float((expected - got).abs().max()) if got.shape == expected.shape else math.inf
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise KdzooError(
            f"export: the logits of the {form} program lie {difference:.1e} from the student's. Nothing was "
            "written."
        )
    return (
        f"images [N, C, H, W] uint8 to logits [N, K]; largest difference from the student's {difference:.1e}"
    )
