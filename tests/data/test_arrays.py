import numpy as np
import pytest
import torch

import kdzoo
from kdzoo.checks import UsageError
from kdzoo.data.arrays import as_dataset, from_arrays

LAYOUTS = {
    "grey": (8, 8),
    "channels last": (8, 8, 3),
    "one channel last": (8, 8, 1),
    "channels first": (3, 8, 8),
    "one channel first": (1, 8, 8),
}


def arrays(shape=(8, 8, 3), train=12, test=6, classes=3):
    draw = np.random.default_rng(0)
    return [
        array
        for count in (train, test)
        for array in (draw.integers(0, 256, (count, *shape), np.uint8), np.arange(count) % classes)
    ]


@pytest.mark.parametrize("shape", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_becomes_channels_first(shape):
    given = arrays(shape)
    data = from_arrays(*given)
    channels = 3 if 3 in shape else 1
    assert data.train.images.shape == (12, channels, 8, 8)
    assert data.train.images.flags["C_CONTIGUOUS"]
    expected = np.moveaxis(given[0], -1, 1) if shape[-1] in (1, 3) else given[0].reshape(12, channels, 8, 8)
    assert np.array_equal(data.train.images, expected)
    assert data.test.labels.dtype == np.int64
    assert (data.name, data.classes) == ("arrays", ("0", "1", "2"))


def test_tensors_and_lists_are_taken_too():
    given = arrays()
    tensors = [torch.from_numpy(a) for a in given]
    assert from_arrays(*tensors).fingerprint == from_arrays(*given).fingerprint
    assert from_arrays(given[0], given[1].tolist(), *given[2:]).fingerprint == from_arrays(*given).fingerprint


def test_names_of_classes_and_of_the_data():
    data = from_arrays(*arrays(), classes=["cat", "dog", "cow"], name="pets")
    assert (data.name, data.classes) == ("pets", ("cat", "dog", "cow"))
    assert data.fingerprint != from_arrays(*arrays()).fingerprint


@pytest.mark.parametrize(
    ("place", "array", "words"),
    [
        (
            0,
            np.zeros((12, 8, 8, 3), np.float32),
            r"train images: their type must be uint8 .* Bring them to 0..255",
        ),
        (0, np.zeros((12, 8, 6, 3), np.uint8), r"train images: their shape must be .*, got \[12, 8, 6, 3\]"),
        (0, np.zeros((12, 8, 8, 4), np.uint8), "their shape must be"),
        (0, np.zeros((12, 64), np.uint8), "their shape must be"),
        (0, np.zeros((0, 8, 8, 3), np.uint8), "their shape must be"),
        (0, [[1, 2], [3]], "train images: must be one array of numbers"),
        (1, np.arange(11) % 3, r"train images and labels must be as many, got \[12, 11\]"),
        (1, np.zeros((12, 3), np.int64), r"train labels: they must be \[N\] integers"),
        (1, np.zeros(12, np.float32), r"train labels: they must be \[N\] integers"),
        (1, np.arange(12) % 3 - 1, "they must be class numbers from 0, got -1"),
        (1, np.arange(12) % 3 * 2, "class 1 has no image. Number the classes without gaps."),
        (3, np.arange(6) % 4, "test labels must be classes of the train labels, 0 to 2, got 3"),
        (2, np.zeros((6, 9, 9, 3), np.uint8), r"must be of one shape .*got \[\[3, 8, 8\], \[3, 9, 9\]\]"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(place, array, words):
    given = arrays()
    given[place] = array
    with pytest.raises(UsageError, match=words) as caught:
        from_arrays(*given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("classes", [["a", "b"], ["a", "b", "b"], "abc"])
def test_class_names_must_be_as_many_and_different(classes):
    with pytest.raises(UsageError, match="classes must be 3 different names"):
        from_arrays(*arrays(), classes=classes)


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (["a" * 1500, "b", "c"], "that of class 0 has 1,500 characters, and must have 1 to 1,000"),
        (["a", "b", ""], "that of class 2 has 0 characters"),
        (["a", "b\ud800", "c"], "that of class 1 has lone surrogates"),
    ],
)
def test_class_names_must_be_such_as_a_student_can_keep(classes, words):
    with pytest.raises(UsageError, match=words) as caught:
        from_arrays(*arrays(), classes=classes)
    assert "\n" not in str(caught.value)
    assert from_arrays(*arrays(), classes=["a" * 1000, "b", "c"])


@pytest.mark.parametrize("name", ["", "a/b", "../x", 3])
def test_a_name_of_which_no_folder_can_be_made_is_refused(name):
    with pytest.raises(UsageError, match="name must be a name of letters"):
        from_arrays(*arrays(), name=name)


def test_all_that_is_wrong_is_told_at_once():
    given = arrays()
    given[0] = given[0].astype(float)
    given[3] = given[3].astype(float)
    with pytest.raises(UsageError) as caught:
        from_arrays(*given)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("given", "got"),
    [(3, "'int'"), ([1, 2], "'list of 2'"), ({"train": 1}, "'dict of 1'"), (None, "'NoneType'")],
)
def test_what_is_no_data_is_refused(given, got):
    with pytest.raises(UsageError, match=f"data must be a name, what kdzoo.from_arrays gives.*{got}"):
        as_dataset(given)


def test_a_run_on_arrays(tmp_path, zoo):
    given = arrays((32, 32), train=32, test=8, classes=4)
    options = {
        "student": "tiny_student", "teacher": "resnet8", "epochs": 1, "teacher_epochs": 1, "threads": 1,
        "device": "cpu", "work_dir": tmp_path,
    }  # fmt: skip
    results = kdzoo.run(data=given, methods="scratch,kd", **options)
    assert [r.method for r in results.records] == ["scratch", "kd"]
    record = results.records[0]
    assert (record.benchmark, record.settings["data"]["name"]) == ("arrays", "arrays")
    assert record.settings["student"]["name"] == "tiny_student"
    assert record.settings["data"]["classes"] == 4
    named = kdzoo.from_arrays(*given, name="mine")
    other = kdzoo.run(data=named, methods="scratch", **options).records[0]
    assert other.benchmark == "mine"
    assert other.epochs == record.epochs


def test_arrays_that_are_changed_in_place_are_other_data(tmp_path, zoo):
    images, *rest = arrays((32, 32), train=16, test=8, classes=4)
    data = from_arrays(images, *rest)
    options = {"student": "tiny_student", "epochs": 1, "threads": 1, "device": "cpu", "work_dir": tmp_path}

    def run():
        return kdzoo.run(data=data, methods="scratch", **options).records[0]

    first = run()
    assert run().key == first.key
    images[:] = 255 - images
    changed = run()
    assert changed.key != first.key
    assert changed.settings["data"]["mean"] != first.settings["data"]["mean"]
    data.train.images[:] = 255 - data.train.images
    assert run().key == first.key
