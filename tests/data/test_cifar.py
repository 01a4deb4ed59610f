import io
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from kdzoo.checks import UsageError
from kdzoo.data import Dataset, cifar, load_dataset
from kdzoo.data.cifar import Cifar
from kdzoo.data.cifar10 import CIFAR10
from kdzoo.data.cifar100 import CIFAR100

Draw = Callable[..., np.ndarray]
KINDS = {kind.name: kind for kind in (CIFAR10, CIFAR100)}
# One training image in each batch and one test image of every class.
COUNT = {"cifar10": (50, 10), "cifar100": (100, 100)}


def names(kind: Cifar) -> list[str]:
    return [f"class{number:03d}" for number in range(kind.classes)]


def batch(kind: Cifar, seed: int, **changed: object) -> dict[str, object]:
    """A batch of one image of each class, in an order of its own."""
    draw = np.random.default_rng(seed)
    labels = draw.permutation(kind.classes).tolist()
    images = draw.integers(0, 256, (kind.classes, 3072), dtype=np.uint8)
    return {"data": images, kind.labels: labels, "filenames": ["x.png"] * kind.classes, **changed}


def batches(kind: Cifar, **changed: object) -> dict[str, dict[str, object]]:
    files = {name: batch(kind, number) for number, name in enumerate((*kind.train, kind.test))}
    return {**files, kind.meta: {kind.names: names(kind), "num_vis": 3072}, **changed}


def in_bytes(thing: object) -> object:
    """All texts as Python 2 had them."""
    if isinstance(thing, dict):
        return {in_bytes(k): in_bytes(v) for k, v in thing.items()}
    if isinstance(thing, list):
        return [in_bytes(v) for v in thing]
    return thing.encode() if isinstance(thing, str) else thing


def write(kind: Cifar, folder: Path, protocol: int = 2, text: bool = False, **changed: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in batches(kind, **changed).items():
        if not isinstance(content, bytes):
            content = pickle.dumps(content if text else in_bytes(content), protocol)
        (folder / name).write_bytes(content)
    return folder


def pack(kind: Cifar, folder: Path, archive: Path) -> None:
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(folder, kind.folder)


def as_folders(data: Dataset, root: Path) -> None:
    """Write images by class, numbered in the order of the data set."""
    for split in ("train", "test"):
        part = getattr(data, split)
        for number, (image, label) in enumerate(zip(part.images, part.labels, strict=True)):
            folder = root / split / data.classes[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number:05d}.png")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Cifar:
    return KINDS[request.param]


@pytest.fixture
def root(tmp_path: Path, kind: Cifar) -> Path:
    """A folder with the unpacked batches."""
    write(kind, tmp_path / "root" / kind.folder)
    return tmp_path / "root"


def check(kind: Cifar, data: Dataset) -> None:
    """Hold a data set against the batches, read a second way."""
    files = batches(kind)
    for split, parts in ((data.train, kind.train), (data.test, (kind.test,))):
        images = np.concatenate([files[name]["data"] for name in parts]).reshape(-1, 3, 32, 32)
        np.testing.assert_array_equal(split.images, images)
        np.testing.assert_array_equal(split.labels, np.concatenate([files[n][kind.labels] for n in parts]))
        assert split.images.flags.writeable
    assert data.classes == tuple(names(kind))
    assert data.name == kind.name
    first, second = data.warnings
    assert first == f"This copy has {COUNT[kind.name][0]} train images; {kind.title} has 50,000."
    assert second == f"This copy has {COUNT[kind.name][1]} test images; {kind.title} has 10,000."


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_batches_are_read_in_their_own_order(tmp_path: Path, kind: Cifar, protocol: int, text: bool) -> None:
    write(kind, tmp_path / kind.folder, protocol, text)
    check(kind, load_dataset(kind.name, tmp_path))


def test_the_folder_itself_may_be_named(root: Path, kind: Cifar) -> None:
    check(kind, load_dataset(kind.name, root / kind.folder))


@pytest.mark.parametrize("named", ["folder", "file"])
def test_the_archive_is_read_packed(root: Path, tmp_path: Path, kind: Cifar, named: str) -> None:
    place = tmp_path / "packed"
    place.mkdir()
    archive = place / kind.archive
    pack(kind, root / kind.folder, archive)
    data = load_dataset(kind.name, place if named == "folder" else archive)
    check(kind, data)
    assert os.listdir(place) == [kind.archive]
    assert data.fingerprint == load_dataset(kind.name, root).fingerprint


def test_class_names_of_protocol_0_are_read(tmp_path: Path, kind: Cifar) -> None:
    """As the published batches.meta has them."""
    meta = pickle.dumps({kind.names: names(kind), "num_vis": 3072}, 0)
    folder = write(kind, tmp_path / kind.folder, **{kind.meta: meta})
    check(kind, load_dataset(kind.name, folder))
    pack(kind, folder, tmp_path / "archive.tar.gz")
    check(kind, load_dataset(kind.name, tmp_path / "archive.tar.gz"))


def test_without_a_folder_the_cache_is_searched(cache: Path, kind: Cifar) -> None:
    write(kind, cache / kind.folder)
    check(kind, load_dataset(kind.name))


def test_a_second_start_reads_no_batch(root: Path, kind: Cifar, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_dataset(kind.name, root)
    monkeypatch.setattr(cifar, "read_pickle", None)
    check(kind, load_dataset(kind.name, root))
    assert load_dataset(kind.name, root).fingerprint == first.fingerprint


def test_the_same_images_in_the_same_order_have_one_fingerprint_in_every_form(
    tmp_path: Path, kind: Cifar
) -> None:
    """By class is the order of folders; batches that come in it are the same data set."""
    sorted_ones = {}
    for name, content in batches(kind).items():
        if kind.labels in content:
            order = np.argsort(content[kind.labels])
            content = {**content, "data": content["data"][order], kind.labels: sorted(content[kind.labels])}
        sorted_ones[name] = content
    if kind.name == "cifar10":
        # Five batches, each with all classes: in folders each class comes once.
        images = np.concatenate([sorted_ones[name]["data"] for name in kind.train])
        order = np.argsort(np.tile(np.arange(10), 5), kind="stable").reshape(5, 10)
        for name, part in zip(kind.train, order, strict=True):
            sorted_ones[name] = {"data": images[part], kind.labels: (part % 10).tolist()}
    write(kind, tmp_path / "pickled" / kind.folder, **sorted_ones)
    pickled = load_dataset(kind.name, tmp_path / "pickled")
    pack(kind, tmp_path / "pickled" / kind.folder, tmp_path / kind.archive)
    as_folders(pickled, tmp_path / "folders")
    forms = [pickled, load_dataset(kind.name, tmp_path), load_dataset(kind.name, tmp_path / "folders")]
    assert len({data.fingerprint for data in forms}) == 1
    assert len({data.warnings for data in forms}) == 1
    np.testing.assert_array_equal(forms[2].train.labels, forms[0].train.labels)


def folders(tmp_path: Path, kind: Cifar) -> Path:
    as_folders(load_dataset(kind.name, write(kind, tmp_path / "pickled")), tmp_path / "folders")
    return tmp_path / "folders"


def refused(kind: Cifar, root: Path | None, options: dict[str, object] | None = None) -> str:
    with pytest.raises(UsageError) as told:
        load_dataset(kind.name, root, options)
    [line] = str(told.value).splitlines()
    assert line.startswith(f"data set {kind.name}: ")
    return line


def test_folders_with_other_pictures_are_refused(tmp_path: Path, kind: Cifar, draw: Draw) -> None:
    root = folders(tmp_path, kind)
    names = sorted((root / "train").rglob("*.png"))
    Image.fromarray(draw(1, (32, 33))).save(names[0])
    Image.fromarray(draw(1)).convert("L").save(names[1])
    names[2].write_bytes(names[2].read_bytes()[:-50])
    line = refused(kind, root)
    assert "cannot use 3 of" in line
    assert f"{names[0]} must be 32x32 RGB, is 33x32 RGB" in line
    assert f"{names[1]} must be 32x32 RGB, is 32x32 L" in line
    assert f"{names[2]} cannot be decoded: image file is truncated" in line


def test_folders_of_other_classes_are_refused(tmp_path: Path, kind: Cifar) -> None:
    root = folders(tmp_path, kind)
    shutil.rmtree(root / "test" / "class003")
    assert f"{root / 'test'} must have the {kind.classes} classes" in refused(kind, root)
    shutil.rmtree(root / "train" / "class003")
    assert f"must have {kind.classes} class folders, got {kind.classes - 1}" in refused(kind, root)


def test_a_class_folder_without_images_is_refused(tmp_path: Path, kind: Cifar) -> None:
    root = folders(tmp_path, kind)
    for path in (root / "train" / "class003").iterdir():
        path.rename(path.with_suffix(".txt"))
    assert f"{root / 'train'} has no image of class003." in refused(kind, root)


def missing_class(kind: Cifar) -> dict[str, object]:
    content = batch(kind, 0)
    content[kind.labels] = [0 if label == 7 else label for label in content[kind.labels]]
    return content


def damage(kind: Cifar, name: str) -> tuple[str, object, str]:
    first, count = kind.train[0], kind.classes
    images = batch(kind, 0)["data"]
    return {
        "truncated": (first, pickle.dumps(in_bytes(batch(kind, 0)), 2)[:-1000], "it ends too early"),
        "empty": (first, b"", "it ends too early"),
        "text": (first, b"hello, world\n" * 9, "it "),
        "code": (first, b"cposix\nsystem\n(S'mkdir executed'\ntR.", "it names 'posix.system'"),
        "no images": (first, {kind.labels: [1]}, "no array where one should be"),
        "list of images": (first, batch(kind, 0, data=images.tolist()), "no array where one should be"),
        "floats": (first, batch(kind, 0, data=images / 255), "something else than integers"),
        "wide integers": (first, batch(kind, 0, data=images.astype("i8")), "uint8 of shape [n, 3072]"),
        "grey": (first, batch(kind, 0, data=images[:, :1024].copy()), f"uint8 ({count}, 1024)"),
        "4 dimensions": (first, batch(kind, 0, data=images.reshape(-1, 3, 32, 32)), f"({count}, 3, 32, 32)"),
        "no labels": (kind.test, {"data": images}, "no array where one should be"),
        "fewer labels": (kind.test, batch(kind, 0, **{kind.labels: [1]}), "one label for each of its"),
        "large label": (first, batch(kind, 0, **{kind.labels: [count] * count}), f"in [0, {count - 1}]"),
        "negative label": (first, batch(kind, 0, **{kind.labels: [-1] * count}), f"in [0, {count - 1}]"),
        "true label": (first, batch(kind, 0, **{kind.labels: [True] * count}), f"in [0, {count - 1}]"),
        "array of labels": (
            first, batch(kind, 0, **{kind.labels: np.full(count, 1000)}), f"in [0, {count - 1}]"
        ),
        "meta is a batch": (kind.meta, batch(kind, 0), f"{count} different class names, and has 0"),
        "batch is meta": (first, {kind.names: names(kind)}, "no array where one should be"),
        "fewer names": (kind.meta, {kind.names: names(kind)[1:]}, f"and has {count - 1}"),
        "doubled names": (kind.meta, {kind.names: ["a"] * count}, "and has 1"),
        "names are numbers": (kind.meta, {kind.names: list(range(count))}, "as a bytes that is none"),
    }[name]  # fmt: skip


DAMAGES = (
    "truncated", "empty", "text", "code", "no images", "list of images", "floats", "wide integers", "grey",
    "4 dimensions", "no labels", "fewer labels", "large label", "negative label", "true label",
    "array of labels", "meta is a batch", "batch is meta", "fewer names", "doubled names",
    "names are numbers",
)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "packed"), [(CIFAR10, False), (CIFAR10, True), (CIFAR100, False)],
    ids=["cifar10", "cifar10, packed", "cifar100"],
)  # fmt: skip
@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_files_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Cifar, name: str, packed: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    file, content, told = damage(kind, name)
    folder = write(kind, tmp_path / "root" / kind.folder, **{file: content})
    where = str(folder / file)
    if packed:
        pack(kind, folder, tmp_path / kind.archive)
        shutil.rmtree(tmp_path / "root")
        where = f"{kind.folder}/{file} in {tmp_path / kind.archive}"
    line = refused(kind, tmp_path if packed else tmp_path / "root")
    assert f"{where} is damaged: " in line
    assert told in line
    assert line.endswith("take it away and add `--cfg-options data.download=True`.")
    assert not Path("executed").exists()
    assert not list((tmp_path / "cache").rglob("images.npy"))


def test_all_damaged_files_are_told_at_once(tmp_path: Path, kind: Cifar) -> None:
    write(kind, tmp_path / kind.folder, **{kind.test: b"?", kind.meta: b"?"})
    with pytest.raises(UsageError) as told:
        load_dataset(kind.name, tmp_path)
    assert len(str(told.value).splitlines()) == 2


def test_a_class_without_images_is_told(tmp_path: Path, kind: Cifar) -> None:
    write(kind, tmp_path / kind.folder, **{kind.test: missing_class(kind)})
    assert "has no test image of class007." in refused(kind, tmp_path)


def test_batches_that_claim_absurd_sizes_are_refused(
    root: Path, kind: Cifar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar, "LARGEST", 1000)
    with pytest.raises(UsageError, match="and 1,000 are the most"):
        load_dataset(kind.name, root)
    pack(kind, root / kind.folder, root.parent / kind.archive)
    assert "claims" in refused(kind, root.parent)


def test_a_batch_of_opcodes_without_number_is_refused(
    tmp_path: Path, kind: Cifar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdzoo.data.pickles.MOST_OPCODES", 1000)
    content = b"]" * 3_000
    with tarfile.open(tmp_path / kind.archive, "w:gz") as tar:
        info = tarfile.TarInfo(f"{kind.folder}/{kind.train[0]}")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    line = refused(kind, tmp_path)
    assert "is damaged: it has more than 1,000 opcodes, which no batch of images needs" in line


def test_an_archive_without_a_file_is_told(root: Path, tmp_path: Path, kind: Cifar) -> None:
    (root / kind.folder / kind.meta).unlink()
    pack(kind, root / kind.folder, tmp_path / kind.archive)
    assert f"{kind.archive} has no {kind.folder}/{kind.meta}." in refused(kind, tmp_path)


def test_a_hostile_archive_is_refused(tmp_path: Path, kind: Cifar) -> None:
    with tarfile.open(tmp_path / kind.archive, "w:gz") as tar:
        info = tarfile.TarInfo(f"{kind.folder}/../../outside")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    assert "outside leads out of the archive" in refused(kind, tmp_path)
    assert not (tmp_path.parent / "outside").exists()


def test_links_that_lead_out_are_refused(root: Path, tmp_path: Path, kind: Cifar) -> None:
    (root / kind.folder / kind.meta).rename(tmp_path / "elsewhere")
    (root / kind.folder / kind.meta).symlink_to(tmp_path / "elsewhere")
    assert f"{kind.meta} is a link that leads out of" in refused(kind, root)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / kind.folder).symlink_to(root / kind.folder)
    assert "leads out of" in refused(kind, tmp_path / "other")


def test_missing_files_are_answered_with_places_and_commands(tmp_path: Path, kind: Cifar) -> None:
    for place in (None, tmp_path / "nowhere"):
        line = refused(kind, place)
        assert f"no {kind.archive}, no folder {kind.folder} and no class folders in train/ and test/" in line
        assert str(tmp_path / "cache" if place is None else place) in line
        assert "`--cfg-options data.download=True`" in line
    folder = write(kind, tmp_path / kind.folder)
    (folder / kind.test).unlink()
    (folder / kind.test).mkdir()
    assert f"({folder} lacks {kind.test})" in refused(kind, tmp_path)


def test_denied_permission_is_told(root: Path, kind: Cifar, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> object:
        raise PermissionError(13, "Permission denied", str(root / "x"))

    monkeypatch.setattr(cifar.Folder, "open", denied)
    assert refused(kind, root) == (
        f"data set {kind.name}: {root / 'x'} must be readable, got 'Permission denied'."
    )  # fmt: skip


Fetch = Callable[[Callable[[Path], object]], list[str]]


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Fetch:
    """A function that puts something in the place of the network, and gives the addresses that are asked."""

    def replace(act: Callable[[Path], object]) -> list[str]:
        asked: list[str] = []

        def fetch(url: str, path: str, *_: object) -> None:
            asked.append(url)
            act(Path(path))

        monkeypatch.setattr(torchvision.datasets.utils, "_get_redirect_url", lambda url, **_: url)
        monkeypatch.setattr(torchvision.datasets.utils, "_urlretrieve", fetch)
        return asked

    return replace


def fail(_: Path) -> None:
    raise URLError("Temporary failure in name resolution")


def test_a_failed_download_is_answered_and_leaves_nothing(cache: Path, kind: Cifar, network: Fetch) -> None:
    asked = network(fail)
    with pytest.raises(UsageError, match="name resolution") as told:
        load_dataset(kind.name, None, {"download": True})
    assert asked[0].endswith(kind.archive)
    first, second = str(told.value).splitlines()
    assert f"the download to {cache} failed" in first
    assert f"put {kind.archive} into {cache} by hand" in second
    assert os.listdir(cache) == []


def test_a_download_of_other_content_is_not_taken(cache: Path, kind: Cifar, network: Fetch) -> None:
    network(lambda path: path.write_bytes(b"other"))
    with pytest.raises(UsageError, match="the download to"):
        load_dataset(kind.name, None, {"download": True})
    assert os.listdir(cache) == []


def test_a_download_is_kept_packed_and_happens_once(
    root: Path, tmp_path: Path, kind: Cifar, network: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = network(lambda path: pack(kind, root / kind.folder, path))
    monkeypatch.setattr(
        torchvision.datasets.utils, "check_integrity", lambda path, md5=None: Path(path).exists()
    )
    # torchvision would unpickle.
    monkeypatch.setattr(pickle, "load", None)
    for _ in range(2):
        check(kind, load_dataset(kind.name, tmp_path / "own", {"download": True}))
    assert len(asked) == 1
    assert os.listdir(tmp_path / "own") == [kind.archive]


def test_files_that_are_there_are_not_downloaded(root: Path, kind: Cifar, network: Fetch) -> None:
    asked = network(fail)
    check(kind, load_dataset(kind.name, root, {"download": True}))
    assert asked == []


def test_a_place_that_cannot_be_made_is_answered(tmp_path: Path, kind: Cifar, network: Fetch) -> None:
    asked = network(fail)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"the download to .* failed: .*Not a directory"):
        load_dataset(kind.name, tmp_path / "file" / "folder", {"download": True})
    assert asked == []
