"""Soft labels from files: what is read, and what is refused before training."""

import hashlib
import os
import pickle
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kdzoo.checks import UsageError
from kdzoo.outputs import Batch, Setting
from kdzoo.sources import build_source, file

LABELS = [0, 1, 2, 1, 0, 2, 2]
SETTING = Setting(None, None, None, 3, torch.tensor(LABELS))
BATCH = Batch(torch.zeros(4, 1, 2, 3), torch.tensor([2, 0, 1, 2]), torch.tensor([6, 4, 1, 2]))
BY_CLASS = np.array([[7.0, 2.0, 1.0], [0.0, 3.0, 1.0], [2.0, 1.0, 1.0]]) - 1
BY_IMAGE = np.random.default_rng(0).normal(size=(7, 3))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def distributions(rows):
    return np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)


def write(rows, name):
    if name.endswith(".npy"):
        np.save(name, rows)
    else:
        save_file({"rows": torch.from_numpy(rows.copy())}, name)


def made(path, kind="scores"):
    return build_source("file", {"path": str(path), "kind": kind})


def fitted(workshop, path, kind="scores"):
    source = made(path, kind)
    source.check(SETTING)
    source.fit(workshop(LABELS))
    return source(BATCH)


def refused(path, kind="scores", setting=SETTING):
    with pytest.raises(UsageError) as caught:
        made(path, kind).check(setting)
    message = str(caught.value)
    assert message.startswith("file: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["rows.npy", "rows.safetensors", "folder/ROWS.NPY"])
@pytest.mark.parametrize("rows", [BY_CLASS, BY_IMAGE], ids=["by_class", "by_image"])
def test_every_sample_gets_the_row_of_its_class_or_its_own(rows, name, workshop):
    os.mkdir("folder")
    chosen = torch.from_numpy(rows)[[2, 0, 1, 2] if rows is BY_CLASS else [6, 4, 1, 2]]
    write(rows, name.lower())
    os.rename(name.lower(), name)
    for temperature in (1.0, 4.0):
        found = fitted(workshop, name).log_probs(temperature)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), torch.log_softmax(chosen / temperature, dim=1))
    write(distributions(rows), name.lower())
    os.rename(name.lower(), name)
    for temperature in (1.0, 4.0):
        found = fitted(workshop, name, "probabilities").log_probs(temperature)
        torch.testing.assert_close(found.double(), torch.log_softmax(chosen, dim=1))


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "f2", "i4", ">i8", "u2", "u8", np.longdouble])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numbers_of_any_kind_and_order_are_read(dtype, order, workshop):
    rows = np.array([[9, 1, 0], [1, 2, 3], [0, 0, 4]])
    np.save("rows.npy", np.asarray(rows, dtype=dtype, order=order))
    expected = torch.log_softmax(torch.from_numpy(rows[[2, 0, 1, 2]]).float(), dim=1)
    assert torch.equal(fitted(workshop, "rows.npy").log_probs(1.0), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint16])
def test_tensors_of_any_kind_are_read(dtype, workshop):
    rows = torch.tensor([[9, 1, 0], [1, 2, 3], [0, 0, 4]])
    save_file({"a": rows.to(dtype)}, "rows.safetensors")
    expected = torch.log_softmax(rows[[2, 0, 1, 2]].float(), dim=1)
    assert torch.equal(fitted(workshop, "rows.safetensors").log_probs(1.0), expected)


def test_probabilities_are_made_exact_and_may_be_zero(workshop):
    rows = np.array([[1, 0, 0], [0.25, 0.75, 0], [0.2, 0.2, 0.6]]) * 1.0009
    write(rows, "rows.npy")
    found = fitted(workshop, "rows.npy", "probabilities").log_probs(1.0).exp()
    assert found[1].tolist() == [1.0, 0.0, 0.0]
    torch.testing.assert_close(found.sum(dim=1), torch.ones(4), rtol=1e-7, atol=0)
    np.save("rows.npy", np.eye(3, dtype=np.uint8))
    assert fitted(workshop, "rows.npy", "probabilities").log_probs(4.0).exp()[0].tolist() == [0, 0, 1]


@pytest.mark.parametrize("portion", [1, 6, 2**22])
def test_rows_are_read_in_portions(portion, workshop, monkeypatch):
    write(BY_IMAGE, "rows.npy")
    whole = fitted(workshop, "rows.npy").log_probs(4.0)
    monkeypatch.setattr(file, "PORTION", portion)
    assert torch.equal(fitted(workshop, "rows.npy").log_probs(4.0), whole)
    wrong = BY_IMAGE.copy()
    wrong[6, 1] = np.nan
    write(wrong, "rows.npy")
    assert "row 6 of rows.npy" in refused("rows.npy")


def test_images_are_found_by_their_place_in_the_data_as_loaded(workshop):
    """Three of the images were taken off for validation; the batch counts those that are left."""
    write(BY_IMAGE, "rows.npy")
    shop = workshop([LABELS[i] for i in (1, 2, 4, 6)])
    shop.positions, shop.loaded = np.array([1, 2, 4, 6]), 7
    source = made("rows.npy")
    left = SETTING._replace(labels=torch.tensor(shop.labels), positions=torch.tensor([1, 2, 4, 6]), loaded=7)
    source.check(left)
    source.fit(shop)
    batch = Batch(torch.zeros(2, 1, 2, 3), torch.tensor([2, 1]), torch.tensor([3, 0]))
    expected = torch.log_softmax(torch.from_numpy(BY_IMAGE[[6, 1]]), dim=1)
    torch.testing.assert_close(source(batch).log_probs(1.0).double(), expected)
    # Rows for those that are left alone could as well be the first four.
    write(BY_IMAGE[[1, 2, 4, 6]], "rows.npy")
    assert "[7, 3] (a row per training image of the data set as it was loaded), got [4, 3]" in refused(
        "rows.npy", setting=left
    )


def test_as_many_images_as_classes_are_classes(workshop):
    write(BY_CLASS, "rows.npy")
    source = made("rows.npy")
    shop = workshop([2, 0, 1])
    source.fit(shop)
    batch = Batch(torch.zeros(1, 1, 2, 3), torch.tensor([2]), torch.tensor([0]))
    expected = torch.log_softmax(torch.from_numpy(BY_CLASS[[2]]), dim=1)
    torch.testing.assert_close(source(batch).log_probs(1.0).double(), expected)


def test_content_is_the_hash_of_the_file_and_of_nothing_else():
    write(BY_CLASS, "rows.npy")
    expected = {"sha256": hashlib.sha256(open_bytes("rows.npy")).hexdigest()}
    assert made("rows.npy").content() == expected
    assert made(os.path.abspath("rows.npy"), "probabilities").content() == expected
    write(BY_CLASS + 1, "rows.npy")
    assert made("rows.npy").content() != expected
    os.remove("rows.npy")
    with pytest.raises(UsageError, match=r"^file: rows\.npy cannot be read: .*No such file"):
        made("rows.npy").content()


def open_bytes(name):
    with open(name, "rb") as opened:
        return opened.read()


class Bomb:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def hostile(name):
    """Files that would execute something if they were trusted."""
    bomb = np.empty((3, 3), dtype=object)
    bomb[:] = Bomb()
    if name.startswith("object"):
        with open(name, "wb") as opened:
            np.lib.format.write_array(opened, bomb, allow_pickle=True)
    elif name.startswith("zip"):
        with open(name, "wb") as opened:
            np.savez(opened, bomb)
    elif name.startswith("torch"):
        torch.save({"rows": bomb}, name)
    else:
        with open(name, "wb") as opened:
            pickle.dump(bomb, opened)


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
@pytest.mark.parametrize("form", ["object", "zip", "torch", "pickle"])
def test_what_would_execute_is_refused_and_does_not(form, suffix):
    name = form + suffix
    hostile(name)
    message = refused(name)
    assert message.startswith(f"file: {name} cannot be read: ")
    assert message.endswith(
        "It must hold an array of numbers, as numpy.save or safetensors.torch.save_file write it, and no "
        "pickled objects."
    )
    made(name).content()
    assert not os.path.exists("executed")


def test_such_files_execute_when_they_are_trusted():
    """Guards the test above."""
    hostile("object.npy")
    np.load("object.npy", allow_pickle=True)
    assert os.path.isdir("executed")


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\x10\x00{'descr': __import__"])
@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_damaged_files_are_refused(content, suffix):
    with open("rows" + suffix, "wb") as opened:
        opened.write(content)
    assert f"rows{suffix} cannot be read: " in refused("rows" + suffix)


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_files_that_were_cut_off_are_refused(suffix):
    write(BY_IMAGE, "rows" + suffix)
    whole = open_bytes("rows" + suffix)
    with open("rows" + suffix, "wb") as opened:
        opened.write(whole[:-1])
    assert f"rows{suffix} cannot be read: " in refused("rows" + suffix)


@pytest.mark.parametrize("shape", [(3,), (4, 3), (3, 4), (7, 4), (0, 3), (7, 3, 1), ()])
@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_other_shapes_are_refused_with_both_that_fit(shape, suffix):
    write(np.zeros(shape), "rows" + suffix)
    assert refused("rows" + suffix) == (
        f"file: rows{suffix} must be of shape [3, 3] (a row per class) or [7, 3] (a row per training image "
        f"of the data set as it was loaded), got {list(shape)}."
    )


@pytest.mark.parametrize("dtype", [bool, complex, "U3", "S3", "M8[s]", [("a", "f4")]])
def test_what_is_no_number_is_refused(dtype):
    np.save("rows.npy", np.zeros((3, 3), dtype=dtype))
    assert re.match(r"file: rows\.npy must be of floating or integer numbers, got ", refused("rows.npy"))


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_tensors_that_are_no_usual_numbers_are_refused(dtype):
    save_file({"rows": torch.zeros(3, 3).to(dtype)}, "rows.safetensors")
    assert "must be of floating or integer numbers, got " in refused("rows.safetensors")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
@pytest.mark.parametrize("kind", ["scores", "probabilities"])
def test_numbers_that_are_not_finite_are_refused(value, kind):
    rows = distributions(BY_IMAGE)
    rows[4, 2] = value
    write(rows, "rows.npy")
    message = refused("rows.npy", kind)
    assert message.startswith("file: row 4 of rows.npy, counted from 0, must be ")
    if kind == "scores":
        assert "numbers that are finite in float32" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (-0.001, "probabilities, none negative, got -0.001. Are they scores? Then write kind=scores."),
        (1.002, "probabilities with a sum within 0.001 of 1, got 1.002. Are they scores?"),
        (0.998, "probabilities with a sum within 0.001 of 1, got 0.998. Are they scores?"),
    ],
)
def test_what_is_no_distribution_is_refused(change, message):
    rows = np.full((3, 3), 1 / 3)
    rows[2] = [change, 0, 0]
    write(rows, "rows.npy")
    assert f"row 2 of rows.npy, counted from 0, must be {message}" in refused("rows.npy", "probabilities")


@pytest.mark.parametrize("count", [0, 2, 9])
def test_files_of_several_tensors_are_refused_by_name(count):
    save_file({f"t{i}": torch.zeros(3, 3) for i in range(count)}, "rows.safetensors")
    message = refused("rows.safetensors")
    assert "must be a file of one tensor, got [" in message
    assert all(f"'t{i}'" in message for i in range(min(count, 5)))
    assert "'t5'" not in message
    assert "Write the one that is meant into a file of its own" in message


@pytest.mark.parametrize("path", ["nosuch.npy", "~/rows.npy", "folder.npy", "x/y.safetensors"])
def test_missing_files_are_told_with_their_place_and_a_hint(path):
    os.mkdir("folder.npy")
    assert refused(path) == (
        f"file: there is no file {os.path.abspath(path)}. A path cannot have any of : , ~ * ? [ or a + "
        "before a letter: the method grammar reads them."
    )


@pytest.mark.parametrize("path", ["rows.txt", "rows", "", "rows.npz", "npy", "rows.pt"])
def test_other_endings_are_refused(path):
    expected = f"path must be a file whose name ends in .npy or .safetensors, got {path!r}."
    assert refused(path).startswith(f"file: {expected} A path cannot have any of ")


@pytest.mark.parametrize("path", ["a\nb.npy", "a\x00.npy", "a\udcff.npy"])
def test_names_that_no_record_can_show_are_refused(path):
    assert "path must be a text of printable characters" in refused(path)
    assert "cannot be read" in refused("x" * 300 + ".npy")


def test_both_options_must_be_given():
    with pytest.raises(UsageError) as caught:
        build_source("file")
    assert str(caught.value).splitlines() == [
        "file: option 'path' must be given: a text.",
        "file: option 'kind' must be given: 'scores' or 'probabilities'.",
    ]
    with pytest.raises(UsageError, match="kind must be 'scores' or 'probabilities', got 'logits'"):
        made("rows.npy", "logits")
