"""Every benchmark that comes with kdzoo trains its own pair for two steps, on made-up images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kdzoo
from kdzoo.training.benchmark import benchmark_names, load_benchmark

# Channels, and pixels of a side, of what a data set gives.
SHAPES = {
    "digits": (1, 32),
    "fashion_mnist": (1, 28),
    "cifar100": (3, 32),
    "tiny_imagenet": (3, 64),
    "image_folder": (3, 64),
}
CLASSES, BATCH = 2, 2
SMALL = {
    "methods": "dkd", "epochs": 1, "teacher_epochs": 1, "threads": 1, "device": "cpu",
}  # fmt: skip


def images(channels: int, size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(count)
    return draw.integers(0, 256, (count, channels, size, size), np.uint8), np.arange(count) % CLASSES


@pytest.mark.parametrize("name", [n for n in benchmark_names() if n != "imagenet"])
def test_config_trains_two_steps(name: str, tmp_path: Path) -> None:
    # Batches of four and the rate of 256 do not go together.
    options = {"recipe.batch_size": BATCH, "recipe.optimizer.lr": 1e-3}
    settings = load_benchmark(name, cfg_options=options)
    shape = SHAPES[settings.data]
    data = kdzoo.from_arrays(*images(*shape, 2 * BATCH), *images(*shape, CLASSES), name=name)
    results = kdzoo.run(benchmark=name, data=data, work_dir=tmp_path, cfg_options=options, **SMALL)
    assert not results.failed, results
    (record,) = results.records
    assert record.timing["steps"] == 2
    assert record.settings["student"]["name"] == settings.student.network
    assert record.settings["optimizer"] == dict(settings.student.recipe.optimizer)
    assert record.artifacts["teacher"]["network"] == settings.sections["teacher"].network


def test_imagenets_layout_is_streamed(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for split, count in (("train", 2 * BATCH), ("val", CLASSES)):
        for number in range(count):
            path = tmp_path / "data" / split / f"n{number % CLASSES}" / f"{number}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            height, width = draw.integers(40, 80, 2)
            Image.fromarray(draw.integers(0, 256, (height, width, 3), np.uint8)).save(path)
    options = {"recipe.batch_size": BATCH, "data.size": 32, "teacher.network.pretrained": False}
    runs = []
    for workers in (0, 2):
        results = kdzoo.run(
            benchmark="imagenet", data_root=tmp_path / "data", work_dir=tmp_path / str(workers),
            cfg_options=options, workers=workers, **SMALL,
        )  # fmt: skip
        assert not results.failed, results
        runs.append([r.repeatable() for r in results.records])
    assert runs[0] == runs[1]
    (record,) = results.records
    assert record.settings["data"]["mean"] == [0.485, 0.456, 0.406]
    assert record.settings["views"]["crop_scale"] == 0.08
    assert record.settings["student"]["name"] == "torchvision:resnet18"
    assert record.settings["method"]["distiller"] == "dkd"


def test_the_public_pairs_have_the_public_recipe() -> None:
    """The facts of Tian et al. 2020 and Zhao et al. 2022, spelled once more."""
    betas = {
        "resnet32x4_resnet8x4": 8, "resnet56_resnet20": 2, "resnet110_resnet32": 2, "wrn_40_2_wrn_16_2": 6,
        "wrn_40_2_wrn_40_1": 6, "vgg13_vgg8": 6, "vgg13_mobilenetv2": 6, "resnet50_mobilenetv2": 8,
        "resnet32x4_shufflenetv1": 8, "resnet32x4_shufflenetv2": 8, "wrn_40_2_shufflenetv1": 8,
        "resnet110_resnet20": None, "resnet50_vgg8": None,
    }  # fmt: skip
    pairs = {
        n.removeprefix("cifar100_"): load_benchmark(n) for n in benchmark_names() if n.startswith("cifar100_")
    }
    assert pairs.keys() == betas.keys()
    for pair, found in pairs.items():
        slow = found.student.network.startswith(("mobilenet", "shufflenet"))
        teacher = found.section("teacher")
        assert pair == f"{teacher.network}_{found.student.network}"
        assert found.methods.get("dkd", {}).get("beta") == betas[pair]
        assert found.student.recipe.optimizer["lr"] == (0.01 if slow else 0.05)
        assert teacher.recipe.optimizer == {"type": "SGD", "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
        for recipe in (found.student.recipe, teacher.recipe):
            assert (recipe.epochs, recipe.batch_size) == (240, 64)
            assert [dict(s) for s in recipe.param_scheduler] == [
                {"type": "MultiStepLR", "milestones": [150, 180, 210], "gamma": 0.1}
            ]
        assert found.views.described() == {"resize": None, "crop_padding": 4, "flip": True, "rotation": 0.0}
        assert found.section("autoencoder").recipe == load_benchmark("cifar100").section("autoencoder").recipe


def test_the_papers_pairs_have_table_7() -> None:
    for name in ("cifar100", "tiny_imagenet"):
        found = load_benchmark(name)
        assert (found.section("teacher").network, found.student.network) == ("resnet50", "resnet18")
        assert found.student.recipe == load_benchmark("fashion_mnist").student.recipe
        assert found.sources == {"reffakd": {"gamma": 0.0225}}
        assert (found.views.flip, found.views.rotation) == (True, 15.0)
    assert load_benchmark("cifar100").views.crop_padding == 4
    assert load_benchmark("tiny_imagenet").views.crop_padding == 0
