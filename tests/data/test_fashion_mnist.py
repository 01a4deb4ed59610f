import gzip
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torchvision.datasets.mnist

from kdzoo.checks import UsageError
from kdzoo.data import fashion_mnist as module
from kdzoo.data import load_dataset
from kdzoo.data.split import channel_statistics

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the machine's package nor its cache reaches a test."""
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "package")
    monkeypatch.setenv("KDZOO_DATA", str(tmp_path / "cache"))


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every attempt to reach the network, which fails."""
    asked: list[str] = []

    def fail(url: str, **_: object) -> None:
        asked.append(url)
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", fail)
    return asked


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("layout", ["", "FashionMNIST/raw"])
def test_images_and_labels_are_read(tmp_path: Path, write_fashion: Write, zipped: bool, layout: str) -> None:
    write_fashion(tmp_path / layout, zipped=zipped)
    data = load_dataset("fashion_mnist", tmp_path)
    draw = np.random.default_rng(0)
    np.testing.assert_array_equal(data.train.images[:, 0], draw.integers(0, 256, (40, 28, 28)))
    np.testing.assert_array_equal(data.test.images[:, 0], draw.integers(0, 256, (20, 28, 28)))
    np.testing.assert_array_equal(data.train.labels, np.arange(40) % 10)
    assert data.train.images.dtype == np.uint8
    assert data.train.labels.dtype == np.int64
    assert data.train.images.flags.writeable
    assert data.classes[9] == "Ankle boot"


def test_image_counts_other_than_the_published_ones_are_told(tmp_path: Path, write_fashion: Write) -> None:
    first, second = load_dataset("fashion_mnist", write_fashion(tmp_path)).warnings
    assert "40 train images; Fashion-MNIST has 60,000." in first
    assert "20 t10k images; Fashion-MNIST has 10,000." in second


def test_package_goes_before_cache_and_a_folder_before_both(
    tmp_path: Path, write_fashion: Write, as_idx: Write
) -> None:
    def first_label(root: Path | None) -> int:
        return int(load_dataset("fashion_mnist", root).train.labels[0])

    places = {name: tmp_path / name for name in ("cache", "package", "own")}
    for mark, (name, folder) in enumerate(places.items(), start=3):
        write_fashion(folder, train_labels=as_idx(np.full(40, mark)))
        assert first_label(folder if name == "own" else None) == mark
    assert first_label(None) == 4


def test_missing_files_are_answered_with_places_and_commands(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as told:
        load_dataset("fashion_mnist")
    message = str(told.value)
    names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    for expected in (
        *names,
        str(tmp_path / "package"),
        str(tmp_path / "cache"),
        module.INSTALL,
        module.DOWNLOAD,
    ):
        assert expected in message
    assert "\n" not in message


def test_a_given_folder_is_the_only_one_searched(tmp_path: Path, write_fashion: Write) -> None:
    write_fashion(tmp_path / "package")
    (write_fashion(tmp_path / "own") / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UsageError) as told:
        load_dataset("fashion_mnist", tmp_path / "own")
    assert "no t10k-labels-idx1-ubyte (plain or .gz) in" in str(told.value)
    assert str(tmp_path / "package") not in str(told.value)
    assert "train-images" not in str(told.value)


def images_of(count: int, content: bytes) -> bytes:
    return content[:4] + count.to_bytes(4, "big") + content[8:]


def damage(name: str, as_idx: Callable[..., bytes]) -> tuple[str, bytes, str]:
    images, labels = np.zeros((40, 28, 28)), np.arange(40) % 10
    wrong = labels.copy()
    wrong[7] = 12
    return {
        "empty": ("train_images", b"", "begins with '?00000803"),
        "short header": ("train_images", as_idx(images)[:10], "header of 16 bytes, got '10 bytes"),
        "truncated": ("train_images", as_idx(images)[:-1], "31360 bytes after its header, got '31359 bytes'"),
        "too long": (
            "train_images",
            as_idx(images) + b"\0",
            "31360 bytes after its header, got '31361 bytes'",
        ),
        "huge": ("train_images", images_of(2**32 - 1, as_idx(images)), "got '31360 bytes'"),
        "magic": ("train_images", as_idx(images, b"\0\0\x08\x01"), "begins with 00000803, got '00000801'"),
        "floats": ("train_labels", as_idx(labels, b"\0\0\x0d\x01"), "begins with 00000801, got '00000d01'"),
        "small images": ("train_images", as_idx(np.zeros((40, 14, 14))), r"shape \(1 or more, 28, 28\)"),
        "no images": ("train_images", as_idx(np.zeros((0, 28, 28))), r"shape \(1 or more, 28, 28\)"),
        "no labels": ("train_labels", as_idx(np.zeros(0)), "of shape"),
        "label": ("train_labels", as_idx(wrong), r"labels in \[0, 9\], got '12 at position 7'"),
        "count": ("train_labels", as_idx(labels[:39]), "got '39 labels for 40 images'"),
    }[name]


DAMAGES = (
    "empty,short header,truncated,too long,huge,magic,floats,small images,no images,no labels,label,count"
)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", DAMAGES.split(","))
def test_damaged_files_are_named(
    tmp_path: Path, write_fashion: Write, as_idx: Callable[..., bytes], name: str, zipped: bool
) -> None:
    which, content, expected = damage(name, as_idx)
    write_fashion(tmp_path, zipped=zipped, **{which: content})
    file = which.replace("_images", "-images-idx3-ubyte").replace("_labels", "-labels-idx1-ubyte")
    with pytest.raises(UsageError, match=expected) as told:
        load_dataset("fashion_mnist", tmp_path)
    assert str(tmp_path / file) in str(told.value)
    assert "For a good copy, delete it and add `--cfg-options" in str(told.value)


def test_damaged_package_is_to_be_installed_again(tmp_path: Path, write_fashion: Write) -> None:
    write_fashion(tmp_path / "package", train_labels=b"?")
    with pytest.raises(
        UsageError, match="For a good copy, run `apt-get install --reinstall dataset-fashion-mnist`"
    ):
        load_dataset("fashion_mnist")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda b: b[:-20],
        lambda b: b[:-8] + bytes(4) + b[-4:],
        lambda b: b[:200] + bytes(40) + b[240:],
        lambda b: b[:10] + b"\xff" + b[11:],
        lambda b: b"\0" + b,
        lambda b: b + b"junk",
    ],
    ids=["truncated", "checksum", "content", "code", "no gzip", "trailing junk"],
)
def test_damaged_gzip_is_named(tmp_path: Path, write_fashion: Write, spoil: Callable[[bytes], bytes]) -> None:
    path = write_fashion(tmp_path, zipped=True) / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(UsageError, match=r"t10k-images-idx3-ubyte\.gz must be a whole gzip file"):
        load_dataset("fashion_mnist", tmp_path)


def test_gzip_under_a_plain_name_is_named(tmp_path: Path, write_fashion: Write) -> None:
    path = write_fashion(tmp_path) / "t10k-images-idx3-ubyte"
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(UsageError, match="begins with 00000803, got '1f8b"):
        load_dataset("fashion_mnist", tmp_path)


def test_all_damaged_files_are_told_at_once(tmp_path: Path, write_fashion: Write) -> None:
    write_fashion(tmp_path, train_images=b"?", train_labels=b"?", t10k_labels=b"?")
    with pytest.raises(UsageError) as told:
        load_dataset("fashion_mnist", tmp_path)
    assert len(str(told.value).splitlines()) == 3


def test_failed_download_is_answered(tmp_path: Path, network: list[str]) -> None:
    with pytest.raises(UsageError, match="name resolution") as told:
        load_dataset("fashion_mnist", options={"download": "true"})
    assert network
    assert len(str(told.value).splitlines()) == 2
    assert str(tmp_path / "cache") in str(told.value)


def test_files_that_are_there_are_not_downloaded(
    tmp_path: Path, write_fashion: Write, network: list[str]
) -> None:
    write_fashion(tmp_path / "package")
    assert len(load_dataset("fashion_mnist", options={"download": True}).train) == 40
    assert not network


def test_folder_that_cannot_be_made_is_answered(tmp_path: Path, network: list[str]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"the download to .* failed: .*Not a directory"):
        load_dataset("fashion_mnist", tmp_path / "file" / "folder", {"download": True})
    assert not network


def test_download_goes_to_the_folder_and_happens_once(
    tmp_path: Path, write_fashion: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def fetch(url: str, download_root: str, **_: object) -> None:
        asked.append(url)
        write_fashion(Path(download_root))

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", fetch)
    for _ in range(2):
        data = load_dataset("fashion_mnist", tmp_path / "own", {"download": True})
    assert len(data.train) == 40
    assert (tmp_path / "own" / "FashionMNIST" / "raw").is_dir()
    assert 1 <= len(asked) <= 4
    with pytest.raises(UsageError, match="To get them"):
        load_dataset("fashion_mnist")


INSTALLED = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.skipif(
    not INSTALLED.is_dir(), reason="the Debian package dataset-fashion-mnist is not installed"
)
def test_the_real_files() -> None:
    data = load_dataset("fashion_mnist", INSTALLED)
    assert data.train.images.shape == (60_000, 1, 28, 28)
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.warnings == ()
    (mean,), (std,) = channel_statistics(data.train.images)
    assert (round(mean, 4), round(std, 4)) == (0.2860, 0.3530)
