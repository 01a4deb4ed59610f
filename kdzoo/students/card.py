"""What goes with an exported student: its config.json and its model card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdzoo.models.external import External
from kdzoo.results.words import counted, crop, markdown, words
from kdzoo.students.student import Student, deploying

FILES = {"safetensors": "model.safetensors", "onnx": "model.onnx", "torch": "model.pt2"}


def config(student: Student) -> dict[str, Any]:
    """Give config.json: what timm reads of a model folder, and under `kdzoo` what only we know.

    Args:
        student: trained.
    """
    sheet, record = student.sheet, student.record
    shape = [sheet.channels, sheet.size, sheet.size]
    return {
        "architecture": _architecture(student),
        "num_classes": len(sheet.classes),
        "model_args": _arguments(student),
        "label_names": list(sheet.classes),
        "pretrained_cfg": {
            "input_size": shape, "mean": list(sheet.mean), "std": list(sheet.std),
            "interpolation": "bilinear", "crop_pct": sheet.pictures["size"] / sheet.pictures["short_side"],
            "num_classes": len(sheet.classes),
        },
        "kdzoo": {
            "network": sheet.network, "pictures": sheet.pictures, "benchmark": record.benchmark,
            "protocol": record.protocol, "method": record.method, "seed": record.seed, "record": record.key,
            "accuracy": record.accuracy, "parameters": record.parameters, "flops": record.flops,
        },
    }  # fmt: skip


def _arguments(student: Student) -> dict[str, Any]:
    """Give what the library of a network from elsewhere is told, beside its name and the classes."""
    given = student.network.arguments if isinstance(student.network, External) else {}
    return {name: value for name, value in given.items() if name != "num_classes"}


def card(student: Student, files: Sequence[str]) -> str:
    """Write the model card: what the student is, how it was trained, how good it is, and how it is used.

    Args:
        student: trained.
        files: names of the exported files in its folder.
    """
    sheet, record = student.sheet, student.record
    data, accuracy = record.settings["data"], record.accuracy
    name = f"{sheet.network['type']} under {record.method}"
    facts = [
        ("Network", words({"type": sheet.network["type"], **sheet.network["options"]})),
        ("Parameters", f"{record.parameters:,}; {record.flops:,} multiply-adds an image"),
        ("Data", f"{data['name']}, {data['train']:,} training and {data['test']:,} test images, "
                 f"{data['classes']} classes (fingerprint {data['fingerprint'][:16]})"),
        *(("Data warning", warning) for warning in data.get("warnings", [])),
        ("Method", f"{record.method}, seed {record.seed}"),
        *(("Teacher", _teacher(a)) for n, a in record.artifacts.items() if n.startswith("teacher")),
        ("Training", f"{counted(record.settings['epochs'], 'epochs')}, "
                     f"batch size {record.settings['batch_size']}, "
                     f"{words(record.settings['optimizer'])}, {record.settings['precision']}"),
        ("Accuracy", f"{accuracy['last']:.2f} % of the test images (top-1, after the last epoch, nothing "
                     f"selected){_judged(sheet.precision)}"),
        ("Calibration", _calibration(record.epochs[-1]["test"])),
        ("Protocol", f"{record.benchmark}, {record.protocol['name']}, hash {record.protocol['hash'][:8]}"),
        ("Record", record.key),
    ]  # fmt: skip
    lines = [
        f"# {markdown(name)}",
        "",
        "A student trained by kdzoo, the benchmark zoo for knowledge distillation.",
        "",
    ]
    lines += [f"- {head}: {markdown(text)}" for head, text in facts]
    return "\n".join([*lines, "", *_input(student), "", *_uses(student, files)]).rstrip() + "\n"


def _judged(precision: str) -> str:
    return "" if precision == "float32" else f", computed in {precision}; the files here compute in float32"


def _teacher(artifact: Any) -> str:
    score = artifact["score"].get("top1")
    return f"{artifact['network']}" + ("" if score is None else f", {score:.2f} % of the test images")


def _calibration(test: Any) -> str:
    return f"NLL {test['nll']:.4f} nats, ECE {test['ece']:.2f} %"


def _input(student: Student) -> list[str]:
    sheet = student.sheet
    fit, square = sheet.pictures, f"{sheet.pictures['size']}x{sheet.pictures['size']}"
    how = (
        f"short side resized to {fit['short_side']} pixels, then the middle {square} cut out"
        if fit["fit"] == "crop"
        else f"resized to {square}"
    )
    if fit["size"] != sheet.size:
        how += f", then resized to {sheet.size}x{sheet.size}"
    mean, std = (", ".join(f"{v:.6g}" for v in values) for values in (sheet.mean, sheet.std))
    return [
        "## Input",
        "",
        f"Images of {sheet.channels} channel{'s' if sheet.channels > 1 else ''} and "
        f"{sheet.size}x{sheet.size} pixels; pictures of other sizes: {how}. "
        f"Pixels are divided by 255, then normalised: mean {mean}; "
        f"standard deviation {std}. `model.onnx` and `model.pt2` do that themselves and take bytes (uint8).",
        "",
        "## Classes",
        "",
        crop(", ".join(markdown(f"{i} {n}") for i, n in enumerate(sheet.classes)), 4000)
        + " (all in `config.json`: `label_names`)",
    ]


def _architecture(student: Student) -> str:
    """Name the network as timm does, if it is the network alone."""
    kind: str = student.sheet.network["type"]
    own = deploying(student.record) is not None
    return (
        f"{student.record.settings['method']['distiller']} of {kind}" if own else kind.removeprefix("timm:")
    )


def _uses(student: Student, files: Sequence[str]) -> list[str]:
    sheet = student.sheet
    shape = f"[N, {sheet.channels}, {sheet.size}, {sheet.size}]"
    texts = {
        "model.safetensors": _loaded(student),
        "model.onnx": [
            "import onnxruntime", "", 'session = onnxruntime.InferenceSession("model.onnx")',
            f'(logits,) = session.run(["logits"], {{"images": images}})  # uint8 {shape}',
        ],
        "model.pt2": [
            "import torch", "", 'student = torch.export.load("model.pt2").module()',
            f"logits = student(images)  # torch.uint8 {shape}",
        ],
    }  # fmt: skip
    lines = ["## Use", ""]
    for file in files:
        lines += [f"`{file}`:", "", "```python", *texts[file], "```", ""]
    return lines


def _loaded(student: Student) -> list[str]:
    """Say how the network is built, and its weights are loaded."""
    loading = "from safetensors.torch import load_file"
    if (method := deploying(student.record)) is None:
        return [
            loading,
            "",
            *_built(student),
            f'{_bare(student)}.load_state_dict(load_file("model.safetensors"))',
        ]
    name = student.record.settings["method"]["distiller"]
    plugged = [f"# First kdzoo.load_plugin(FILE) with the file that registers {name!r}."]
    return [
        *_of_ours(student), *(plugged if "plug_in" in student.record.settings["method"] else []),
        "from kdzoo.registry import DISTILLERS", loading, "",
        'weights = load_file("model.safetensors")',
        f"# What {method.__name__} deploys: more than the student.",
        f'network = DISTILLERS.find("{name}").redeployed(network, weights)',
        "network.load_state_dict(weights)",
    ]  # fmt: skip


def _bare(student: Student) -> str:
    """Name the module whose weights are exported: what the hull holds, where `_built` builds one of ours."""
    hull = isinstance(student.network, External) and "import kdzoo" in _built(student)
    return "network.network" if hull else "network"


def _built(student: Student) -> list[str]:
    """Say how the bare network is built for whom the weights are meant."""
    sheet = student.sheet
    kind, name = sheet.network["type"], sheet.network["type"].partition(":")[2]
    classes = len(sheet.classes)
    told = "".join(f", {n}={v!r}" for n, v in _arguments(student).items())
    if kind.startswith("timm:"):
        return ["import timm", "", f'network = timm.create_model("{name}", num_classes={classes}{told})']
    if kind.startswith("torchvision:") and sheet.channels == 3:
        return ["import torchvision", "",
                f'network = torchvision.models.get_model("{name}", num_classes={classes}{told})']  # fmt: skip
    return _of_ours(student)


def _of_ours(student: Student) -> list[str]:
    """Say how kdzoo builds the bare network."""
    sheet = student.sheet
    kind, options = sheet.network["type"], sheet.network["options"]
    more = f", options={dict(options)!r}" if options else ""
    plug_in = "plug_in" in student.record.settings["student"] and not kind.startswith("module:")
    return [
        "import kdzoo",
        "",
        *([f"# First kdzoo.load_plugin(FILE) with the file that registers {kind!r}."] if plug_in else []),
        f'network = kdzoo.build_model("{kind}", num_classes={len(sheet.classes)}, channels={sheet.channels}, '
        f"size={sheet.size}{more})",
    ]
