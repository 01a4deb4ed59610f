"""Streamed pictures: the same views from any number of workers, from any position, after any fault."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from kdzoo.checks import KdzooError, UsageError
from kdzoo.data import Dataset, load_dataset
from kdzoo.data.picture_files import IMAGENET, IMAGENET_GREY, PictureFiles
from kdzoo.data.picture_views import choose_window, draw_view
from kdzoo.data.split import split_validation
from kdzoo.data.stream import Stream, feed_of
from kdzoo.data.views import Views

SIZE, SHORT = 28, 32
CLASSES = ("ant", "bee", "cat")
VIEWS = Views(crop_scale=0.08, flip=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in ImageNet's layout: pictures of mixed sizes and modes."""
    folder = tmp_path_factory.mktemp("imagenet")
    draw = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for name in CLASSES:
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(count):
                height, width = draw.integers(20, 90, 2)
                picture = Image.fromarray(draw.integers(0, 256, (height, width, 3), np.uint8))
                mode, suffix = [("RGB", "jpg"), ("L", "png"), ("RGBA", "png"), ("P", "gif")][number % 4]
                picture.convert(mode).save(place / f"{number}.{suffix}")
    return folder


@pytest.fixture(scope="module")
def data(root: Path) -> Dataset:
    return load_dataset("image_folder", root, {"size": SIZE, "stream": True})


def stream(
    data: Dataset, *, workers: int = 0, views: Views = VIEWS, seed: int = 0, batch_size: int = 5
) -> Stream:
    mean, std = data.statistics
    found = feed_of(
        data.train, views=views, workers=workers, mean=mean, std=std, batch_size=batch_size, seed=seed,
        device="cpu",
    )  # fmt: skip
    assert isinstance(found, Stream)
    OPEN.append(found)
    return found


OPEN: list[Stream] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Leave no processes to other tests."""
    yield
    while OPEN:
        OPEN.pop().close()


def everything(images: Stream, epochs: int = 2) -> list[torch.Tensor]:
    return [images.batch(e, s).images for e in range(epochs) for s in range(images.steps)]


def test_nothing_is_decoded_when_it_is_loaded(
    root: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "open", lambda *a, **k: pytest.fail("a picture was opened"))
    again = load_dataset("image_folder", root, {"size": SIZE, "stream": True})
    assert isinstance(again.train.images, PictureFiles)
    assert "resized to 28x28 as they are decoded: the short side brought to 32" in again.warnings[0]
    assert again.train.images.shape == (18, 3, SIZE, SIZE)
    assert again.fingerprint == data.fingerprint
    assert again.statistics == IMAGENET
    assert again.classes == CLASSES
    assert again.train.labels.tolist() == [i // 6 for i in range(18)]


def test_a_view_is_torchvisions_own_drawn_by_key(root: Path, data: Dataset) -> None:
    images = stream(data)
    batch = images.batch(1, 2)
    names = sorted((root / "train").glob("*/*"))
    mean, std = (torch.tensor(v)[:, None, None] for v in IMAGENET)
    for image, index in zip(batch.images, batch.indices.tolist(), strict=True):
        picture = Image.open(names[index])
        if picture.mode != "L":
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        levels = v2.functional.pil_to_tensor(picture.convert("RGB"))
        drawn = draw_view(VIEWS, 0, 1, index)
        crop = v2.RandomResizedCrop(SIZE, scale=(0.08, 1.0), antialias=True)
        window = choose_window(0.08, *levels.shape[1:], drawn.window)
        expected = v2.RandomHorizontalFlip(float(drawn.moves.flip[0]))(
            crop.transform(levels, window._asdict())
        )
        torch.testing.assert_close(image, (expected.float() / 255 - mean) / std)


def test_plain_images_are_torchvisions_resize_and_centre(root: Path, data: Dataset) -> None:
    images = stream(data).clean([0, 7, 17])
    names = sorted((root / "train").glob("*/*"))
    plain = v2.Compose([v2.Resize(SHORT, antialias=True), v2.CenterCrop(SIZE)])
    mean, std = (torch.tensor(v)[:, None, None] for v in IMAGENET)
    for image, index in zip(images, (0, 7, 17), strict=True):
        levels = v2.functional.pil_to_tensor(Image.open(names[index]).convert("RGB"))
        torch.testing.assert_close(image, (plain(levels).float() / 255 - mean) / std)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_no_bit(data: Dataset, workers: int) -> None:
    for one, other in zip(everything(stream(data)), everything(stream(data, workers=workers)), strict=True):
        assert torch.equal(one, other)


def test_any_position_gives_the_batch_of_that_position(data: Dataset) -> None:
    whole = everything(stream(data))
    images = stream(data, workers=1)
    steps = images.steps
    for epoch, step in [(1, 2), (1, 3), (0, 1), (0, 1), (0, 2), (1, 0), (0, steps - 1), (1, 0)]:
        assert torch.equal(images.batch(epoch, step).images, whole[epoch * steps + step]), (epoch, step)


def test_a_batch_that_was_written_into_is_made_again_and_the_next_ones_are_kept(data: Dataset) -> None:
    images, whole = stream(data, workers=1), everything(stream(data))
    images.batch(0, 0).images.zero_()
    made = []
    real = images._loaded
    images._loaded = lambda batches: (made.append(1), real(batches))[1]  # type: ignore[method-assign]
    for step in (0, 1, 2):
        assert torch.equal(images.batch(0, step).images, whole[step])
    # Once for the batch itself; the others were under way already.
    assert len(made) == 1


def test_labels_and_order_are_those_of_data_in_memory(data: Dataset) -> None:
    batches = [stream(data).batch(0, step) for step in range(4)]
    assert sorted(torch.cat([b.indices for b in batches]).tolist()) == list(range(18))
    for batch in batches:
        assert batch.labels.tolist() == data.train.labels[batch.indices.numpy()].tolist()
    assert len(batches[-1].labels) == 3


def test_seeds_epochs_and_purposes_have_views_of_their_own(data: Dataset) -> None:
    images = stream(data)
    views = {
        "training": images._normalise(images._views_of([3], 0, None)),
        "epoch": images._normalise(images._views_of([3], 1, None)),
        "seed": stream(data, seed=1)._normalise(stream(data, seed=1)._views_of([3], 0, None)),
        "purpose": images.augmented([3], purpose="a", epoch=0),
        "other purpose": images.augmented([3], purpose="b", epoch=0),
        "none": images.clean([3]),
    }
    for name, view in views.items():
        assert [n for n, other in views.items() if torch.equal(view, other)] == [name]


def test_a_view_does_not_depend_on_the_batch_size(data: Dataset) -> None:
    one = torch.cat(everything(stream(data, batch_size=5), 1))
    assert torch.equal(one, torch.cat(everything(stream(data, batch_size=18), 1)))
    assert torch.equal(one, torch.cat(everything(stream(data, batch_size=1), 1)))


@pytest.mark.parametrize("workers", [0, 1])
def test_the_process_generator_stays_where_it_was(data: Dataset, workers: int) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    images = stream(data, workers=workers)
    images.batch(0, 0)
    images.augmented([1], purpose="a", epoch=0)
    list(images.chunks(7))
    assert torch.equal(torch.get_rng_state(), before)


def test_chunks_are_all_images_in_their_own_order(data: Dataset) -> None:
    images = stream(data, workers=1)
    chunks = list(images.chunks(7))
    assert [len(labels) for _, labels in chunks] == [7, 7, 4]
    assert torch.equal(torch.cat([c for c, _ in chunks]), images.clean(range(18)))
    assert torch.cat([labels for _, labels in chunks]).tolist() == data.train.labels.tolist()


@pytest.mark.parametrize(
    "views",
    [Views(), Views(flip=True), Views(crop_padding=3), Views(rotation=20), Views(crop_scale=0.5)],
    ids=lambda v: str(v.described()),
)
def test_every_view_is_what_it_says(data: Dataset, views: Views) -> None:
    images = stream(data, views=views)
    random, plain = images.augmented(range(18), purpose="a", epoch=0), images.clean(range(18))
    assert torch.equal(random, plain) == (views == Views())


def test_grey_streams_have_one_channel_and_its_statistics(root: Path) -> None:
    data = load_dataset("image_folder", root, {"size": SIZE, "stream": True, "channels": "grey"})
    assert data.train.images.shape[1] == data.channels == 1
    assert data.statistics == IMAGENET_GREY
    assert stream(data).batch(0, 0).images.shape == (5, 1, SIZE, SIZE)


def test_validation_images_are_split_off(data: Dataset) -> None:
    parted = split_validation(data, 1 / 3)
    assert parted.validation is not None
    assert (len(parted.train), len(parted.validation)) == (12, 6)
    assert parted.fingerprint != data.fingerprint
    assert parted.statistics == data.statistics
    taken = stream(data).clean(parted.validation.positions)
    assert torch.equal(stream(Dataset("v", parted.validation, data.test, CLASSES)).clean(range(6)), taken)


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(root, tmp_path / "copy"))


def test_contents_and_names_are_what_it_is_known_by(copy: Path, data: Dataset) -> None:
    def loaded(**options: object) -> str:
        return load_dataset("image_folder", copy, {"size": SIZE, "stream": True, **options}).fingerprint

    assert loaded() == data.fingerprint
    assert loaded(size=20) != data.fingerprint
    assert loaded(channels="grey") != data.fingerprint
    picture = next((copy / "train" / "ant").iterdir())
    known, content = picture.stat(), picture.read_bytes()
    picture.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(picture, ns=(known.st_atime_ns, known.st_mtime_ns))
    assert picture.stat().st_size == known.st_size
    changed = loaded()
    assert changed != data.fingerprint
    picture.write_bytes(content)
    assert loaded() == data.fingerprint
    picture.rename(picture.with_name("z" + picture.name))
    assert loaded() not in (changed, data.fingerprint)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_is_named_when_its_turn_comes(copy: Path, workers: int) -> None:
    path = copy / "train" / "bee" / "0.jpg"
    path.write_bytes(path.read_bytes()[:100])
    images = stream(load_dataset("image_folder", copy, {"size": SIZE, "stream": True}), workers=workers)
    with pytest.raises(KdzooError) as caught:
        everything(images, 1)
    assert f"data: cannot use {path}" in str(caught.value)
    assert "Replace what is damaged and run the same command again" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, UsageError)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[::-1]), "was changed since this run began"),
        (lambda p: p.unlink(), "cannot be decoded: No such file or directory"),
        (lambda p: (p.unlink(), p.symlink_to("/etc/hosts")), "leads out of its folder now"),
        (lambda p: (p.unlink(), os.mkfifo(p)), "is no file any more"),
    ],
    ids=["other content", "gone", "a link that leads out", "a pipe"],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_changes_during_a_run_is_told_in_a_line(
    copy: Path, workers: int, change: Callable[[Path], object], words: str
) -> None:
    path = copy / "train" / "bee" / "0.jpg"
    images = stream(load_dataset("image_folder", copy, {"size": SIZE, "stream": True}), workers=workers)
    change(path)
    with pytest.raises(KdzooError, match=words) as caught:
        everything(images, 1)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_whose_rights_or_place_on_the_disk_change_is_still_the_same(copy: Path, data: Dataset) -> None:
    images = stream(load_dataset("image_folder", copy, {"size": SIZE, "stream": True}))
    for path in (copy / "train" / "ant").iterdir():
        path.chmod(0o600)
    for path in (copy / "train" / "bee").iterdir():
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    for one, other in zip(everything(images, 1), everything(stream(data), 1), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("options", "damage", "words"),
    [
        ({}, lambda r: (r / "train" / "ant" / "0.jpg").write_bytes(b""), "empty files: .*0.jpg"),
        ({}, lambda r: os.symlink("/etc/hosts", r / "train" / "ant" / "x.jpg"), "leads out of"),
        ({"fit": "squash"}, lambda r: None, "streamed pictures are cut, not squashed"),
    ],
)
def test_what_cannot_be_streamed_is_told_before_training(
    copy: Path, options: dict[str, object], damage: Callable[[Path], object], words: str
) -> None:
    damage(copy)
    with pytest.raises(UsageError, match=words):
        load_dataset("image_folder", copy, {"size": SIZE, "stream": True, **options})


def test_labels_must_be_as_many() -> None:
    files = PictureFiles.of(Path(), [], np.zeros((0, 32), np.uint8), channels="rgb", size=8, short_side=9)
    with pytest.raises(UsageError, match="images and labels must be as many"):
        Stream(files, np.zeros(1, np.int64), views=Views(), mean=(0,), std=(1,), batch_size=1, seed=0,
               device="cpu", workers=0)  # fmt: skip
    with pytest.raises(UsageError, match="images and labels must be as many, 1 or more"):
        Stream(files, np.zeros(0, np.int64), views=Views(), mean=(0,), std=(1,), batch_size=1, seed=0,
               device="cpu", workers=0)  # fmt: skip
