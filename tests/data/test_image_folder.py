import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from kdzoo.checks import UsageError
from kdzoo.data import Dataset, image_folder, load_dataset
from kdzoo.data.pictures import fitted

Write = Callable[..., Path]
Draw = Callable[..., np.ndarray]


@pytest.fixture
def root(tmp_path: Path, write_folders: Write) -> Path:
    folder = tmp_path / "root"
    return write_folders(folder, (16, 16), train={"dog": 4, "cat": 3}, test={"cat": 2, "dog": 1})


def load(root: Path | None, **options: object) -> Dataset:
    return load_dataset("image_folder", root, {"size": 16, **options})


def refused(root: Path | None, **options: object) -> str:
    with pytest.raises(UsageError) as told:
        load(root, **options)
    [line] = str(told.value).splitlines()
    assert line.startswith("data set image_folder: ")
    return line


def test_images_and_labels_are_those_of_torchvision(root: Path) -> None:
    data = load(root)
    for split, name in ((data.train, "train"), (data.test, "test")):
        reference = ImageFolder(str(root / name))
        np.testing.assert_array_equal(split.labels, reference.targets)
        expected = np.stack([np.asarray(image).transpose(2, 0, 1) for image, _ in reference])
        np.testing.assert_array_equal(split.images, expected)
    assert data.classes == ("cat", "dog")
    assert data.warnings == ()


def test_images_of_nested_folders_are_found(root: Path) -> None:
    place = root / "train/cat/deep/er"
    place.mkdir(parents=True)
    (root / "train/cat/1.png").rename(place / "1.png")
    data = load(root)
    assert data.train.labels.tolist() == [0] * 3 + [1] * 4
    np.testing.assert_array_equal(
        data.train.images[2], np.asarray(Image.open(place / "1.png")).transpose(2, 0, 1)
    )


@pytest.mark.parametrize("channels", ["rgb", "grey"])
@pytest.mark.parametrize("fit", ["crop", "squash"])
@pytest.mark.parametrize("size", [8, 20])
def test_other_sizes_are_fitted_and_told(root: Path, size: int, fit: str, channels: str) -> None:
    data = load(root, size=size, fit=fit, channels=channels)
    assert data.train.images.shape == (7, 1 if channels == "grey" else 3, size, size)
    with Image.open(root / "train/cat/0.png") as picture:
        expected = fitted(picture, size=size, channels=channels, fit=fit)
    np.testing.assert_array_equal(data.train.images[0], expected)
    how = {"crop": f"the short side brought to {size}, the centre cut out",
           "squash": f"both sides brought to {size}, without regard to their ratio"}[fit]  # fmt: skip
    assert data.warnings == (f"10 of 10 images were resized to {size}x{size}: {how}.",)


def test_every_option_changes_the_images(root: Path, draw: Draw) -> None:
    Image.fromarray(draw(1, (16, 24))).save(root / "train/cat/0.png")
    options = [{}, dict(size=17), dict(channels="grey"), dict(fit="squash")]
    assert len({load(root, **given).fingerprint for given in options}) == 4


def test_the_size_is_64_unless_it_is_said(root: Path) -> None:
    assert load_dataset("image_folder", root).train.images.shape == (7, 3, 64, 64)


def test_only_those_of_another_size_are_counted_also_at_the_second_start(root: Path, draw: Draw) -> None:
    Image.fromarray(draw(1, (16, 17))).save(root / "test/dog/0.png")
    for _ in range(2):
        [warning] = load(root).warnings
        assert warning.startswith("1 of 10 images were resized to 16x16")


def test_photographs_of_all_kinds_become_images(root: Path, draw: Draw) -> None:
    cat = root / "train/cat"
    shutil.rmtree(cat)
    cat.mkdir()
    picture = Image.fromarray(draw(1, (30, 40)))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.convert("L").save(cat / "a grey.png")
    picture.convert("P").save(cat / "b palette.gif")
    picture.convert("RGBA").save(cat / "c transparent.WEBP")
    picture.save(cat / "d turned.JPG", exif=exif)
    picture.convert("CMYK").save(cat / "e press.jpeg")
    picture.convert("1").save(cat / "f bits.tif")
    Image.fromarray(draw(1, (30, 40), 1)[..., 0].astype(np.uint16) * 257).save(cat / "g 16 bits.png")
    picture.save(cat / "h bitmap.bmp")
    data = load(root)
    assert len(data.train) == 8 + 4
    grey, *_, sixteen, _ = data.train.images[:8]
    assert (grey[0] == grey[1]).all()
    assert (sixteen[0] == sixteen[2]).all()
    np.testing.assert_array_equal(data.train.images[7], fitted(picture, size=16))


def test_files_that_are_no_images_are_left_out_and_told(root: Path) -> None:
    for name in ("notes.txt", "b.txt", "photo.heic", "README", ".hidden.png", "Thumbs.db", ".DS_Store"):
        (root / "train/cat" / name).write_bytes(b"x")
    (root / "train/.cache").mkdir()
    (root / "train/__MACOSX").mkdir()
    shutil.copy(root / "train/cat/0.png", root / "train/0.png")
    shutil.copy(root / "train/cat/0.png", root / "0.png")
    data = load(root)
    assert len(data.train) == 7
    assert data.warnings == (
        "train/ has files that are no images by their suffix, left out: 2 .txt, 1 .heic, 1 without a suffix.",
        "train/ has images outside of class folders, left out: 1.",
    )


@pytest.mark.parametrize("name", ["val", "validation", "valid"])
def test_a_validation_folder_is_tested_on(root: Path, name: str) -> None:
    (root / "test").rename(root / name)
    data = load(root)
    assert len(data.test) == 3
    assert data.warnings == ()


def test_test_goes_before_val_and_says_so(root: Path) -> None:
    first = load(root).fingerprint
    shutil.copytree(root / "train", root / "val")
    data = load(root)
    assert data.fingerprint == first
    assert data.warnings == ("Accuracies are of test/; val/ is left alone.",)


def test_a_test_folder_without_classes_is_passed_over(root: Path) -> None:
    (root / "test").rename(root / "val")
    (root / "test").mkdir()
    shutil.copy(root / "val/cat/0.png", root / "test/0.png")
    data = load(root)
    assert len(data.test) == 3
    assert data.warnings == ("test/ has no class folders; accuracies are of val/.",)


def test_classes_that_differ_by_case_only_are_told(root: Path, write_folders: Write) -> None:
    write_folders(root, (16, 16), train={"Cat": 1}, test={"Cat": 1})
    data = load(root)
    assert data.classes == ("Cat", "cat", "dog")
    assert data.warnings == ("Classes that differ by upper and lower case only: Cat, cat.",)


def test_a_second_start_decodes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(root, size=8)
    monkeypatch.setattr(image_folder, "decoded", None)
    second = load(root, size=8)
    assert (second.fingerprint, second.warnings) == (first.fingerprint, first.warnings)


def test_new_changed_and_lost_images_are_seen(root: Path, draw: Draw) -> None:
    seen = {load(root).fingerprint}
    Image.fromarray(draw(77, (16, 16))).save(root / "test/dog/9.png")
    seen.add(load(root).fingerprint)
    Image.fromarray(draw(78, (16, 16))).save(root / "test/dog/9.png")
    os.utime(root / "test/dog/9.png", ns=(5, 5))
    seen.add(load(root).fingerprint)
    (root / "test/cat/0.png").unlink()
    seen.add(load(root).fingerprint)
    assert len(seen) == 4


def test_names_of_any_bytes_are_read(root: Path, draw: Draw) -> None:
    odd = os.fsdecode(b"caf\xe9\n")
    for split in ("train", "test"):
        (root / split / "cat").rename(root / split / odd)
        Image.fromarray(draw(5, (16, 17))).save(root / split / odd / os.fsdecode(b"\xff\n.png"))
    for _ in range(2):
        data = load(root)
        assert data.classes == (r"caf\udce9\n", "dog")
        assert len(data.train) == 8
        assert "\n" not in "".join(data.warnings)
        assert data.fingerprint
    (root / "train" / odd / os.fsdecode(b"\xff\n.png")).write_bytes(b"")
    assert r"caf\udce9\n/\udcff\n.png is empty" in refused(root)


def test_names_that_look_alike_are_refused(root: Path, write_folders: Write) -> None:
    alike = {os.fsdecode(b"a\xff"): 1, r"a\udcff": 1}
    write_folders(root, (16, 16), train=alike, test=alike)
    assert "must have names of plain text" in refused(root)


def empty(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()


def link_out(root: Path) -> None:
    (root.parent / "outside").mkdir()
    (root / "test/dog/out").symlink_to(root.parent / "outside")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no train": (lambda r: shutil.rmtree(r / "train"), "root must have train/ and test/ (or val/)"),
    "another case": (lambda r: (r / "train").rename(r / "Train"), "got 'Train', 'test'. Name the folder"),
    "no test": (lambda r: shutil.rmtree(r / "test"), "must have test/ or val/ beside train/, got 'train'."),
    "nothing": (lambda r: shutil.rmtree(r), "No such file or directory"),
    "empty root": (lambda r: (shutil.rmtree(r), r.mkdir()), "got no folders"),
    "root is a file": (lambda r: (shutil.rmtree(r), r.write_text("")), "Not a directory"),
    "flat train": (
        lambda r: (shutil.rmtree(r / "train"), (r / "train").mkdir()), "train must have a folder for each"
    ),
    "flat test": (
        lambda r: (shutil.rmtree(r / "test"), (r / "test").mkdir()), "test must have a folder for each class"
    ),
    "one folder around all": (
        lambda r: ((r / "train").rename(r / "x"), (r / "train").mkdir(), (r / "x").rename(r / "train/x")),
        "two or more, got only 'x'.",
    ),
    "empty class": (lambda r: empty(r / "train/cat"), "train has no image of cat. Put images there (.bmp, "),
    "empty test class": (lambda r: empty(r / "test/dog"), "test has no image of dog"),
    "missing class": (
        lambda r: shutil.rmtree(r / "test/cat"),
        "test must have the 2 classes of the other part of the data, but lacks cat.",
    ),
    "other class": (
        lambda r: (r / "test/cat").rename(r / "test/Cat"), "but lacks cat and has Cat beside them. Upper and"
    ),
    "link": (link_out, "test/dog/out is a link that leads out of"),
    "broken link": (lambda r: (r / "train/dog/x.png").symlink_to("y"), "is a link that leads to nothing"),
    "linked class": (
        lambda r: ((r / "train/dog").rename(r.parent / "d"), (r / "train/dog").symlink_to(r.parent / "d")),
        "train/dog is a link that leads out of",
    ),
    "linked train": (
        lambda r: ((r / "train").rename(r.parent / "t"), (r / "train").symlink_to(r.parent / "t")),
        "train is a link that leads out of",
    ),
    "unreadable": (lambda r: (r / "train/dog/0.png").write_bytes(b"?"), "0.png is no picture that can be"),
    "empty image": (lambda r: (r / "train/dog/0.png").write_bytes(b""), "0.png is empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_wrong_with_the_folders_is_told_in_one_line(root: Path, name: str) -> None:
    change, told = FAULTS[name]
    change(root)
    line = refused(root)
    assert told in line
    assert str(root) in line


def test_all_faults_are_told_at_once(root: Path, write_folders: Write) -> None:
    write_folders(root, train={"a": 0, "b": 0, "c": 0, "d": 0}, test={"e": 0})
    with pytest.raises(UsageError) as told:
        load(root)
    first, second = str(told.value).splitlines()
    assert "train has no image of a, b, c and 1 more. " in first
    assert "test has no image of e. " in second


def test_a_folder_must_be_named() -> None:
    assert "name the folder that has train/ and test/ by --data-root" in refused(None)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (dict(size=0), "size must be an integer in [1, 2048], got 0"),
        (dict(size=5000), "size must be an integer in [1, 2048], got 5000"),
        (dict(channels="bgr"), "channels must be 'rgb' or 'grey', got 'bgr'"),
        (dict(fit="pad"), "fit must be 'crop' or 'squash', got 'pad'"),
        (dict(sice=3), "there is no option 'sice'. Did you mean 'size'?"),
    ],
)
def test_options_that_cannot_be_are_answered(root: Path, options: dict, told: str) -> None:
    assert told in refused(root, **options)


def test_a_bomb_is_refused_by_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdzoo.data.pictures.LARGEST", 16 * 16)
    assert len(load(root).train) == 7
    Image.new("RGB", (16, 17)).save(root / "test/cat/1.png")
    assert f"{root / 'test/cat/1.png'} claims more than 256 pixels" in refused(root)


def test_denied_permission_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", denied)
    line = refused(root)
    assert line == f"data set image_folder: {root / 'train'} must be readable, got 'Permission denied'."


def test_images_are_for_torch_without_a_warning(root: Path) -> None:
    data = load(root)
    assert torch.from_numpy(data.test.images).shape == (3, 3, 16, 16)
