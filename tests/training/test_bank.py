"""The teacher bank: what is read is what was written, or nothing."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from banks import ALL, ENTRY, FAT, FAT_ROWS, SAMPLES, VIEW, batches, fill, marker, right, row_values

from kdzoo.checks import FormError, KdzooError
from kdzoo.training import bank_files, bank_views
from kdzoo.training.bank import Entry, bytes_on_disk, needed_bytes

DTYPES = (
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.uint8,
    torch.bool,
)  # fmt: skip


def test_rows_of_every_dtype_come_back_bit_for_bit(make_bank: Any) -> None:
    entry = Entry("all", {}, {str(d): ((3, 2), d) for d in DTYPES} | {"scalar": ((), torch.bfloat16)})
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (SAMPLES, 48), dtype=np.uint8))
    rows = {str(d): noise[:, : 6 * d.itemsize].contiguous().view(d).view(SAMPLES, 3, 2) for d in DTYPES[:-1]}
    rows[str(torch.bool)] = noise[:, :6].view(SAMPLES, 3, 2) > 100
    rows["scalar"] = torch.randn(SAMPLES).bfloat16()
    order = np.random.default_rng(1).permutation(SAMPLES)
    assert make_bank().write(entry, 0, order, {name: value[order] for name, value in rows.items()})
    found = make_bank().read(entry, 0, ALL)
    assert found is not None
    assert set(found) == set(rows)
    for name, value in rows.items():
        assert found[name].dtype == value.dtype
        assert found[name].shape == value.shape
        # Bits, because noise has NaN among its numbers.
        assert torch.equal(
            found[name].view(SAMPLES, -1).view(torch.uint8), value.view(SAMPLES, -1).view(torch.uint8)
        )
    assert entry.row_bytes == 6 * sum(d.itemsize for d in DTYPES) + 2


def test_rows_in_any_layout_are_kept_as_they_are_indexed(make_bank: Any) -> None:
    entry = Entry("hint", {}, {"hint": ((4, 3, 3), torch.float32)})
    rows = torch.randn(SAMPLES, 4, 3, 3, requires_grad=True).contiguous(memory_format=torch.channels_last)
    bank = make_bank()
    assert bank.write(entry, 0, ALL, {"hint": rows})
    found = bank.read(entry, 0, ALL[::-1])
    assert torch.equal(found["hint"], rows.detach().flip(0))
    assert found["hint"].is_contiguous()


def test_nothing_is_read_until_all_rows_of_the_batch_are_there(make_bank: Any) -> None:
    bank = make_bank()
    assert bank.read(ENTRY, VIEW, ALL[:4]) is None
    assert bank.rows(ENTRY, VIEW) == 0
    assert bank.write(ENTRY, VIEW, ALL[:8], row_values(ALL[:8], VIEW))
    assert bank.rows(ENTRY, VIEW) == 8
    assert right(bank, indices=ALL[:8][::-1])
    assert bank.read(ENTRY, VIEW, ALL[:9]) is None
    assert bank.read(ENTRY, VIEW + 1, ALL[:4]) is None
    assert right(bank, indices=np.array([3, 3, 0]))
    assert right(bank, indices=ALL[:0])


def test_views_and_entries_are_kept_apart(make_bank: Any) -> None:
    bank = make_bank()
    other = Entry(ENTRY.name, {"p": 3}, ENTRY.tensors)
    fill(bank, 0)
    fill(bank, 1)
    assert right(bank, 0)
    assert right(bank, 1)
    assert bank.read(other, 0, ALL) is None


def test_entries_are_told_apart_by_settings_shapes_and_dtypes_and_not_by_order() -> None:
    tensors = {"a": ((2,), torch.float32), "b": ((3,), torch.float32)}
    base = Entry("x", {"p": 2, "q": 1}, tensors)
    assert base.key == Entry("y", {"q": 1, "p": 2}, dict(reversed(tensors.items()))).key
    others = [
        Entry("x", {"p": 3, "q": 1}, tensors),
        Entry("x", {"p": 2, "q": 1}, tensors | {"a": ((2, 1), torch.float32)}),
        Entry("x", {"p": 2, "q": 1}, tensors | {"a": ((2,), torch.int32)}),
        Entry("x", {"p": 2, "q": 1}, {"a": tensors["a"], "c": tensors["b"]}),
    ]
    assert len({base.key, *(e.key for e in others)}) == 5
    assert base.row_bytes == 20


@pytest.mark.parametrize("tensors", [{}, {"a": ((2, 0), torch.float32)}])
def test_an_entry_without_numbers_is_refused(tensors: Any) -> None:
    with pytest.raises(FormError, match="rows that hold numbers"):
        Entry("x", {}, tensors)


def test_rows_are_written_once(make_bank: Any) -> None:
    """Also those that come twice in a batch; the first stays."""
    bank = make_bank()
    indices = np.array([5, 2, 5])
    values = row_values(indices, VIEW)
    values["logits"] = values["logits"] + torch.tensor([0.0, 0.0, 1.0])[:, None]
    assert bank.write(ENTRY, VIEW, indices, values)
    assert bank.rows(ENTRY, VIEW) == 2
    assert bank.write(ENTRY, VIEW, ALL[:6], row_values(ALL[:6], VIEW + 1))
    assert bank.rows(ENTRY, VIEW) == 6
    assert right(bank, indices=np.array([5, 2]))
    assert right(make_bank(), indices=np.array([5, 2]))
    fill(bank)
    assert bank.write(ENTRY, VIEW, ALL, row_values(ALL, VIEW + 1))
    assert right(bank, indices=np.array([5, 2]))


def test_a_write_that_was_interrupted_at_its_end_is_gone_on_with(make_bank: Any, monkeypatch: Any) -> None:
    bank = make_bank()
    assert bank.write(ENTRY, VIEW, ALL[:8], row_values(ALL[:8], VIEW))

    def interrupt(view: object, records: np.ndarray) -> None:
        if len(records):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(bank_files.View, "_add", interrupt)
        with pytest.raises(KeyboardInterrupt):
            bank.write(ENTRY, VIEW, ALL[8:16], row_values(ALL[8:16], VIEW))
    assert bank.write(ENTRY, VIEW, ALL[12:20], row_values(ALL[12:20], VIEW))
    for reader in (bank, make_bank()):
        assert reader.rows(ENTRY, VIEW) == 20
        assert right(reader, indices=ALL[:20])


def test_who_reads_cannot_write_into_the_bank(make_bank: Any) -> None:
    bank = make_bank()
    fill(bank)
    for tensor in bank.read(ENTRY, VIEW, ALL).values():
        tensor.zero_()
    first, second = bank.read(ENTRY, VIEW, ALL), bank.read(ENTRY, VIEW, ALL)
    assert first["logits"].data_ptr() != second["logits"].data_ptr()
    assert right(bank)
    assert right(make_bank())


@pytest.mark.parametrize("indices", [[0, -1], [SAMPLES]])
def test_an_index_of_no_sample_is_an_error(make_bank: Any, indices: list[int]) -> None:
    bank = make_bank()
    fill(bank)
    with pytest.raises(IndexError, match=r"must be in 0\.\."):
        bank.read(ENTRY, VIEW, np.array(indices))
    with pytest.raises(IndexError):
        bank.write(ENTRY, VIEW, np.array(indices), row_values(np.zeros(len(indices), np.int64), VIEW))


@pytest.mark.parametrize("change", [lambda x: x.double(), lambda x: x[:, :-1], lambda x: x[:-1]])
def test_rows_of_another_form_are_an_error(make_bank: Any, change: Any) -> None:
    rows = row_values(ALL[:4], VIEW)
    rows["logits"] = change(rows["logits"])
    with pytest.raises(ValueError, match=r"logits must be \[4, 5\] of torch.float32, got"):
        make_bank().write(ENTRY, VIEW, ALL[:4], rows)


def test_a_view_is_complete_when_it_is_sealed_with_all_rows(make_bank: Any, monkeypatch: Any) -> None:
    bank = make_bank()
    bank.write(ENTRY, VIEW, ALL[:9], row_values(ALL[:9], VIEW))
    bank.seal(VIEW)
    assert marker(bank)["complete"] is False
    fill(bank, seal=False)
    bank.seal(VIEW + 1)
    assert marker(bank)["complete"] is False
    names = []
    fsync = os.fsync
    monkeypatch.setattr(
        os,
        "fsync",
        lambda fd: (names.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))), fsync(fd)),
    )
    bank.seal(VIEW)
    # The data before the file that says that they are there.
    assert names[:2] == ["rows", "order"]
    assert "view.json" in names[2]
    assert marker(bank)["complete"] is True
    assert right(bank)


def test_settings_say_whose_bank_it_is(make_bank: Any, tmp_path: Path) -> None:
    settings = {"teacher": "a", "sizes": (1, 2)}
    fill(make_bank(settings=settings))
    assert right(make_bank(settings=dict(reversed(settings.items()))))
    path = tmp_path / "bank" / "settings.json"
    assert json.loads(path.read_text()) == {"teacher": "a", "sizes": [1, 2]}
    with pytest.raises(KdzooError, match=r"is of a bank with other settings\. Delete .* or choose another"):
        make_bank(settings={"teacher": "b", "sizes": (1, 2)})
    path.write_text("{")
    with pytest.raises(KdzooError, match=r"cannot be read"):
        make_bank(settings=settings)


def test_an_entry_says_what_it_is(make_bank: Any) -> None:
    bank = make_bank()
    entry = Entry("kd:temperature=4/../x", {"p": 2}, ENTRY.tensors)
    bank.write(entry, 0, ALL[:1], row_values(ALL[:1], 0))
    place = bank.place(entry)
    assert place.parent == bank.place(ENTRY).parent
    assert place.name == f"kd-temperature-4-..-x-{entry.key[:8]}"
    described = json.loads((place / "entry.json").read_text())
    assert described["name"] == entry.name
    assert described["key"] == entry.key
    assert described["settings"] == {"p": 2}
    assert described["tensors"]["logits"] == [[5], "torch.float32"]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def mappings(folder: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(folder))


def test_few_views_are_open_at_a_time_and_none_after_closing(make_bank: Any, tmp_path: Path) -> None:
    before = open_files()
    bank = make_bank()
    for view in range(12):
        fill(bank, view)
    for view in range(12):
        assert right(bank, view)
    assert mappings(tmp_path) == bank_views.OPEN_VIEWS
    # Two files and the mapping's own.
    assert open_files() <= before + 3 * bank_views.OPEN_VIEWS
    bank.close()
    assert open_files() == before
    assert mappings(tmp_path) == 0


def test_views_that_are_filled_in_turn_lose_nothing(make_bank: Any, said: list[str]) -> None:
    bank = make_bank()
    for indices in batches():
        for view in range(5):
            assert bank.write(ENTRY, view, indices, row_values(indices, view))
    assert all(right(bank, view) for view in range(5))
    assert not said


def test_sizes_are_told_before_and_after(make_bank: Any, tmp_path: Path) -> None:
    folder = tmp_path / "bank"
    assert bytes_on_disk(folder) == 0
    one = SAMPLES * (FAT.row_bytes + 16)
    assert needed_bytes(FAT, SAMPLES, 3, folder) == 3 * one
    bank = make_bank()
    bank.write(FAT, 1, ALL[:4], {"hint": FAT_ROWS["hint"][:4]})
    # Allocated from its first batch on.
    assert needed_bytes(FAT, SAMPLES, 3, folder) == 3 * one - SAMPLES * FAT.row_bytes - 4 * 16
    assert bytes_on_disk(folder) >= SAMPLES * FAT.row_bytes
    bank.write(FAT, 1, ALL, FAT_ROWS)
    assert needed_bytes(FAT, SAMPLES, 3, folder) == 2 * one
    (folder / "link").symlink_to("/")
    assert bytes_on_disk(folder) < 3 * one


class Event:
    """Stands for a GPU's: rows are there when it is waited for."""

    def __init__(self, here: Any, rows: Any) -> None:
        self.here, self.rows = here, rows

    def synchronize(self) -> None:
        for name, tensor in self.here.items():
            tensor.copy_(self.rows[name])


def test_rows_of_a_gpu_are_written_when_they_have_come(make_bank: Any, monkeypatch: Any) -> None:
    def later(rows: Any) -> Any:
        here = {name: torch.full_like(value, 3) for name, value in rows.items()}
        return here, Event(here, rows)

    monkeypatch.setattr("kdzoo.training.bank.fetched", later)
    bank, (one, two, three, *_) = make_bank(), list(batches())
    assert bank.write(ENTRY, VIEW, one, row_values(one, VIEW))
    assert make_bank().rows(ENTRY, VIEW) == 0
    assert bank.write(ENTRY, VIEW, two, row_values(two, VIEW))
    assert make_bank().rows(ENTRY, VIEW) == len(one)
    # Who asks for them gets them, and so does who comes after the bank was closed.
    assert right(bank, indices=np.concatenate([two, one]))
    assert bank.write(ENTRY, VIEW, three, row_values(three, VIEW))
    bank.close()
    assert right(make_bank(), indices=np.concatenate([three, two, one]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_rows_of_a_real_gpu_are_kept_without_waiting_for_it(make_bank: Any) -> None:
    bank = make_bank()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for indices in batches():
            rows = {
                n: v.pin_memory().to("cuda", non_blocking=True) for n, v in row_values(indices, VIEW).items()
            }
            assert bank.write(ENTRY, VIEW, indices, rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    bank.seal(VIEW)
    assert right(bank)
    assert bank.read(ENTRY, VIEW, ALL, pin=True)["logits"].is_pinned()
