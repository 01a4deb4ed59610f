import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from kdzoo.checks import UsageError
from kdzoo.data import Dataset, load_dataset, tiny_imagenet

Draw = Callable[..., np.ndarray]
# Not in alphabetical order, as the real file.
WNIDS = ["n03", "n01", "n02"]
WORDS = "n01\tgoldfish, Carassius auratus\nn02\tcrane\nn03\tcrane, bird\nn04\tnone of these\n"
TRAIN, VAL = 11, 2


@pytest.fixture
def root(tmp_path: Path, draw: Draw) -> Path:
    """A small copy in the set's own layout; JPEGs, one of them grey."""
    folder = tmp_path / "root" / "tiny-imagenet-200"
    lines, number = [], 0
    for wnid in WNIDS:
        (folder / "train" / wnid / "images").mkdir(parents=True)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("0 0 63 63")
        for index in range(TRAIN):
            number += 1
            Image.fromarray(draw(number, (64, 64))).save(
                folder / "train" / wnid / "images" / f"{wnid}_{index}.JPEG", "JPEG"
            )
    (folder / "val" / "images").mkdir(parents=True)
    for index, wnid in enumerate(["n02", "n03", "n01", "n01", "n03", "n02"]):
        picture = Image.fromarray(draw(100 + index, (64, 64)))
        (picture.convert("L") if index == 2 else picture).save(
            folder / "val" / "images" / f"val_{index}.JPEG", "JPEG"
        )
        lines.append(f"val_{index}.JPEG\t{wnid}\t0\t32\t44\t62")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (folder / "test" / "images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("\n".join(WNIDS))
    (folder / "words.txt").write_text(WORDS)
    return tmp_path / "root"


@pytest.fixture
def folder(root: Path) -> Path:
    return root / "tiny-imagenet-200"


def load(root: Path | None) -> Dataset:
    return load_dataset("tiny_imagenet", root)


def refused(root: Path | None) -> str:
    with pytest.raises(UsageError) as told:
        load(root)
    [line] = str(told.value).splitlines()
    assert line.startswith("data set tiny_imagenet: ")
    return line


def test_images_and_labels_are_those_of_torchvision(root: Path, folder: Path) -> None:
    data = load(root)
    reference = ImageFolder(str(folder / "train"))
    assert reference.classes == sorted(WNIDS)
    np.testing.assert_array_equal(data.train.labels, reference.targets)
    expected = np.stack([np.asarray(image).transpose(2, 0, 1) for image, _ in reference])
    np.testing.assert_array_equal(data.train.images, expected)
    assert data.train.images.shape == (3 * TRAIN, 3, 64, 64)


def test_validation_images_are_the_test_by_class_and_name(root: Path, folder: Path) -> None:
    data = load(root)
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    for image, number in zip(data.test.images, [2, 3, 0, 5, 1, 4], strict=True):
        picture = Image.open(folder / f"val/images/val_{number}.JPEG")
        assert picture.mode == ("L" if number == 2 else "RGB")
        np.testing.assert_array_equal(image, np.asarray(picture.convert("RGB")).transpose(2, 0, 1))
    assert data.validation is None


def test_classes_are_called_by_their_first_word(root: Path, folder: Path) -> None:
    assert load(root).classes == ("goldfish", "crane (n02)", "crane (n03)")
    (folder / "words.txt").write_text("n02\tcrane\n")
    assert load(root).classes == ("n01", "crane", "n03")
    (folder / "words.txt").unlink()
    assert load(root).classes == ("n01", "n02", "n03")


def test_what_is_missing_of_the_published_set_is_told(root: Path, folder: Path) -> None:
    assert load(root).warnings == (
        "This copy has 33 training images (11 a class) and 6 validation images (2 a class) of 3 classes; "
        "Tiny ImageNet has 100,000 (500) and 10,000 (50) of 200.",
    )
    (folder / "train/n01/images/n01_3.JPEG").unlink()
    (folder / "val/images/val_5.JPEG").unlink()
    assert load(root).warnings == (
        "This copy has 32 training images (10 to 11 a class) and 5 validation images (1 to 2 a class) of 3 "
        "classes; Tiny ImageNet has 100,000 (500) and 10,000 (50) of 200. Annotated, but not there: 1.",
    )


def test_the_published_set_has_no_warning(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CLASSES", 3), ("TRAIN", TRAIN), ("VAL", VAL)):
        monkeypatch.setattr(tiny_imagenet, name, value)
    assert load(root).warnings == ()


def plain_train(folder: Path) -> None:
    for wnid in WNIDS:
        for path in (folder / "train" / wnid / "images").iterdir():
            path.rename(folder / "train" / wnid / path.name)


def sorted_val(folder: Path, below: str = "", *, leave: bool = True) -> None:
    """As the scripts that people use do it."""
    for line in (folder / "val" / "val_annotations.txt").read_text().splitlines():
        name, wnid = line.split("\t")[:2]
        place = folder / "val" / wnid / below
        place.mkdir(parents=True, exist_ok=True)
        (folder / "val/images" / name).rename(place / name)
    if not leave:
        (folder / "val/images").rmdir()
        (folder / "val/val_annotations.txt").unlink()


LAYOUTS: dict[str, Callable[[Path], object]] = {
    "train/WNID": plain_train,
    "val/WNID": sorted_val,
    "val/WNID/images": lambda f: sorted_val(f, "images", leave=False),
    "both": lambda f: (plain_train(f), sorted_val(f, leave=False)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_same_data_set(root: Path, folder: Path, layout: str) -> None:
    first = load(root)
    LAYOUTS[layout](folder)
    second = load(root)
    assert second.fingerprint == first.fingerprint
    assert second.classes == first.classes
    assert second.warnings == first.warnings


def pack(folder: Path, archive: Path, base: str = "tiny-imagenet-200/") -> Path:
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(folder.rglob("*")):
            packed.write(path, base + str(path.relative_to(folder)))
    return archive


@pytest.mark.parametrize("base", ["tiny-imagenet-200/", ""])
@pytest.mark.parametrize("named", ["folder", "file"])
def test_the_archive_is_the_same_data_set_and_stays_packed(
    root: Path, folder: Path, tmp_path: Path, named: str, base: str
) -> None:
    first = load(folder)
    place = tmp_path / "packed"
    place.mkdir()
    archive = pack(folder, place / "tiny-imagenet-200.zip", base)
    second = load(place if named == "folder" else archive)
    assert os.listdir(place) == ["tiny-imagenet-200.zip"]
    assert (second.fingerprint, second.warnings) == (first.fingerprint, first.warnings)


@pytest.mark.parametrize("packed", [False, True])
def test_a_second_start_decodes_nothing(
    root: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    place = pack(folder, tmp_path / "tiny.zip") if packed else root
    first = load(place)
    monkeypatch.setattr(tiny_imagenet, "decoded", None)
    second = load(place)
    assert (second.fingerprint, second.warnings) == (first.fingerprint, first.warnings)


def test_without_a_folder_the_cache_is_searched(root: Path, cache: Path) -> None:
    root.rename(cache)
    assert len(load(None).train) == 3 * TRAIN


def test_missing_files_are_answered_with_place_and_address(tmp_path: Path) -> None:
    line = refused(tmp_path)
    for expected in ("no wnids.txt, no folder tiny-imagenet-200 and no tiny-imagenet-200.zip", str(tmp_path),
                     tiny_imagenet.URL, "--data-root"):  # fmt: skip
        assert expected in line
    assert str(tmp_path / "cache") in refused(None)


Change = Callable[[Path], object]


def edit(name: str, *changes: tuple[str, str]) -> Change:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        (folder / name).write_text(text)

    return change


ANNOTATIONS = "val/val_annotations.txt"
FAULTS: dict[str, tuple[Change, str]] = {
    "wnids.txt is a folder": (
        lambda f: ((f / "wnids.txt").unlink(), (f / "wnids.txt").mkdir()), "wnids.txt must be a file"
    ),
    "wnids.txt is empty": (edit("wnids.txt", ("n03\nn01\nn02", "\n")), "wnids.txt names no class"),
    "class twice": (edit("wnids.txt", ("n03", "n02\nn03")), "wnids.txt has n02 twice"),
    "class without folder": (lambda f: shutil.rmtree(f / "train/n01"), "train has no image of n01"),
    "class without images": (
        lambda f: (shutil.rmtree(f / "train/n01/images"), (f / "train/n01/images").mkdir()),
        "train has no image of n01",
    ),
    "unknown class": (
        lambda f: (f / "train/n09").mkdir(), "train has folders that are not in wnids.txt: n09"
    ),
    "images beside classes": (
        lambda f: (f / "train/images").mkdir(), "train has folders that are not in wnids.txt: images"
    ),
    "no train": (lambda f: shutil.rmtree(f / "train"), "train has no image of n01, n02, n03"),
    "no validation": (lambda f: shutil.rmtree(f / "val"), "val_annotations.txt must be a file that names"),
    "no annotations": (
        lambda f: (f / ANNOTATIONS).unlink(), "val_annotations.txt must be a file that names the class"
    ),
    "annotations are a folder": (
        lambda f: ((f / ANNOTATIONS).unlink(), (f / ANNOTATIONS).mkdir()), "must be a file that names the"
    ),
    "wrong class": (
        edit(ANNOTATIONS, ("n02", "n77")),
        "val_annotations.txt has classes that are not in wnids.txt: n77 of val_0.JPEG",
    ),
    "no class": (edit(ANNOTATIONS, ("\t", " "), ("\t", " "), ("\t", " "), ("\t", " "), ("\t", " ")),
                 "val_annotations.txt has lines that are no image and class: line 1"),
    "annotated twice": (
        edit(ANNOTATIONS, ("val_1.JPEG", "val_0.JPEG")), "val_annotations.txt has images twice: val_0.JPEG"
    ),
    "not annotated": (
        edit(ANNOTATIONS, ("val_1.JPEG\tn03\t0\t32\t44\t62\n", "")),
        "val_annotations.txt lacks images of images/: val_1.JPEG",
    ),
    "class without validation images": (
        lambda f: [(f / "val/images" / n).unlink() for n in ("val_0.JPEG", "val_5.JPEG")],
        "val has no image of n02",
    ),
    "half sorted": (
        lambda f: ((f / "val/n02").mkdir(), (f / "val/images/val_0.JPEG").rename(f / "val/n02/val_0.JPEG")),
        "val has images both in images/ and in class folders",
    ),
    "not UTF-8": (lambda f: (f / "words.txt").write_bytes(b"\xff"), "words.txt must be a text in UTF-8"),
    "other size": (
        lambda f: Image.new("RGB", (64, 63)).save(f / "val/images/val_0.JPEG"), "must be 64x64, is 64x63"
    ),
    "empty image": (lambda f: (f / "val/images/val_0.JPEG").write_bytes(b""), "val_0.JPEG is empty"),
    "truncated image": (
        lambda f: (f / "val/images/val_0.JPEG").write_bytes((f / "val/images/val_1.JPEG").read_bytes()[:-99]),
        "val_0.JPEG cannot be decoded: image file is truncated",
    ),
}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True], ids=["unpacked", "packed"])
@pytest.mark.parametrize("name", FAULTS)
def test_what_does_not_fit_together_is_told_in_one_line(
    root: Path, folder: Path, tmp_path: Path, name: str, packed: bool
) -> None:
    change, told = FAULTS[name]
    change(folder)
    place = pack(folder, tmp_path / "tiny.zip") if packed else root
    line = refused(place)
    assert told.split(" ")[0] in line
    assert told.partition(" ")[2] in line
    assert ("tiny.zip" if packed else str(folder)) in line


def test_all_faults_are_told_at_once(root: Path, folder: Path) -> None:
    (folder / "train/n09").mkdir()
    shutil.rmtree(folder / "train/n01")
    edit(ANNOTATIONS, ("n02", "n77"), ("val_1.JPEG", "val_4.JPEG"))(folder)
    with pytest.raises(UsageError) as told:
        load(root)
    assert len(str(told.value).splitlines()) == 4


def test_annotations_never_name_a_path(root: Path, folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "secret.JPEG")
    edit(ANNOTATIONS, ("val_0.JPEG", "../../../../secret.JPEG"))(folder)
    assert "lacks images of images/: val_0.JPEG" in refused(root)


def test_links_that_lead_out_are_refused(root: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "train/n01").rename(tmp_path / "n01")
    (folder / "train/n01").symlink_to(tmp_path / "n01")
    assert f"{folder / 'train/n01'} is a link that leads out of" in refused(root)


def test_unsafe_archives_are_refused(folder: Path, tmp_path: Path) -> None:
    archive = pack(folder, tmp_path / "tiny.zip")
    with zipfile.ZipFile(archive, "a") as packed:
        packed.writestr("tiny-imagenet-200/../../outside", "x")
    assert "outside leads out of the archive" in refused(archive)


def test_a_bomb_in_the_archive_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_imagenet, "LARGEST", 1000)
    assert "claims" in refused(pack(folder, tmp_path / "tiny.zip"))
