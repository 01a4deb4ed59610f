import json
import os

import pytest

from kdzoo.checks import StorageError, UsageError
from kdzoo.results.store import merge, read_record, read_records, run_folder, slug, write_record

from .conftest import digits


def folder_of(work_dir, record):
    protocol = record.protocol
    place = (record.benchmark, protocol["name"], protocol["hash"], record.seed, record.method, record.key)
    return run_folder(work_dir, *place)


def test_record_is_found_where_the_design_puts_it(tmp_path, make_record):
    record = make_record("dkd:beta=4+reffakd", seed=2)
    folder = folder_of(tmp_path, record)
    protocol = f"table7-{digits('table7')[:8]}"
    expected = ("runs", "cifar100-resnet50-resnet18", protocol, "2", f"dkd-beta=4+reffakd-{record.key[:8]}")
    assert folder.relative_to(tmp_path).parts == expected
    assert read_record(folder) is None
    write_record(folder, record)
    assert read_record(folder) == record
    assert os.listdir(folder) == ["record.json"]
    assert (folder / "record.json").read_text(encoding="utf-8") == record.to_json()
    assert read_records([tmp_path]) == [record]
    assert read_records([folder]) == read_records([folder.parent]) == [record]


@pytest.mark.parametrize(
    "name",
    [
        "../../etc",
        "..",
        ".",
        "",
        "/etc/passwd",
        "a/b\\c",
        "kd\0x",
        "kd\n|",
        "~root",
        "C:x",
        "x" * 5000,
        "k\u202ed",
        "é",
    ],
)
def test_no_name_leads_out_of_the_work_directory(tmp_path, name):
    folder = run_folder(tmp_path, name, name, "0" * 64, 0, name, "f" * 64)
    inside = folder.relative_to(tmp_path).parts
    assert len(inside) == 5
    assert inside[0] == "runs"
    assert folder.resolve().is_relative_to(tmp_path.resolve())
    assert all(len(part) < 80 and not part.startswith(".") and part.isascii() for part in inside)
    assert not set("".join(inside)) & set('/\\:*?"<>|~\0\n')
    assert slug(name) == slug(slug(name))


@pytest.mark.parametrize("key", ["../" + "0" * 61, "", "short", "G" * 64])
def test_folder_needs_hexadecimal_digits(tmp_path, key):
    with pytest.raises(ValueError, match="hexadecimal"):
        run_folder(tmp_path, "b", "p", "0" * 64, 0, "kd", key)
    with pytest.raises(ValueError, match="hexadecimal"):
        run_folder(tmp_path, "b", "p", key, 0, "kd", "0" * 64)


def test_an_unsound_record_is_not_written(tmp_path, make_record):
    with pytest.raises(UsageError, match="status must be"):
        write_record(tmp_path, make_record(status="odd"))
    assert not list(tmp_path.iterdir())


def test_work_directory_holds_other_json_and_committed_results_do_not(tmp_path, make_record):
    work, committed = tmp_path / "work", tmp_path / "results"
    first, second = make_record("kd"), make_record("rkd")
    write_record(folder_of(work, first), first)
    (work / "artifacts" / "teacher-1").mkdir(parents=True)
    for other in ("artifacts/teacher-1/settings.json", "runs/state.json", "plan.json"):
        (work / other).write_text("{}")
    (committed / "table8").mkdir(parents=True)
    (committed / "table8" / "rkd-0.json").write_text(second.to_json(), encoding="utf-8")
    (committed / ".part.json").write_text("{")
    assert read_records([work]) == [first]
    assert read_records([committed]) == read_records([committed / "table8" / "rkd-0.json"]) == [second]
    assert read_records([committed, work, work]) == read_records([work, committed]) == [first, second]
    (committed / "broken.json").write_text("{")
    with pytest.raises(UsageError, match=r"broken\.json: content must be JSON"):
        read_records([committed])


def test_links_do_not_lead_out_of_the_folder(tmp_path, make_record):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    write_record(outside, make_record())
    inside.mkdir()
    (inside / "folder").symlink_to(outside)
    (inside / "record.json").symlink_to(outside / "record.json")
    (inside / "loop").symlink_to(inside)
    assert read_records([inside]) == []
    assert len(read_records([outside])) == 1


def test_what_is_no_regular_file_is_passed_over(tmp_path):
    os.mkfifo(tmp_path / "record.json")
    assert read_records([tmp_path]) == []
    assert read_record(tmp_path) is None


def test_a_path_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere: there is no such file or folder"):
        read_records([tmp_path / "nowhere"])


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    def refuse(path, mode):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "record.json").write_text("{}")
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(StorageError, match=r"cannot read .*record\.json"):
        read_records([tmp_path])


def test_the_same_member_twice_stands_once(tmp_path, make_record):
    record = make_record()
    again = make_record(key=record.key, timing={"seconds_per_epoch": 1.0})
    write_record(tmp_path / "a", record)
    write_record(tmp_path / "b", again)
    found = read_records([tmp_path])
    assert len(found) == 1
    assert found == read_records([tmp_path / "b", tmp_path / "a"])


def test_two_tales_of_one_member_are_told_apart(tmp_path, make_record):
    record = make_record()
    write_record(tmp_path / "a", record)
    write_record(tmp_path / "b", make_record(key=record.key, accuracies=(1.0, 2.0, 3.0)))
    with pytest.raises(UsageError, match="same key") as caught:
        read_records([tmp_path])
    assert str(tmp_path / "a" / "record.json") in str(caught.value)
    assert str(tmp_path / "b" / "record.json") in str(caught.value)
    assert "they differ in epochs, accuracy" in str(caught.value)


def test_records_come_in_one_order(make_record):
    records = [make_record(method, seed) for method in ("rkd", "kd") for seed in (1, 0)]
    forwards = merge((str(i), record) for i, record in enumerate(records))
    backwards = merge((str(i), record) for i, record in enumerate(reversed(records)))
    assert forwards == backwards
    assert [(r.seed, r.method) for r in forwards] == [(0, "kd"), (0, "rkd"), (1, "kd"), (1, "rkd")]


def test_hostile_names_are_written_inside_and_come_back(tmp_path, make_record):
    record = make_record("../../../evil|\n`x`", benchmark="/etc", protocol={"name": "..", "hash": "0" * 64})
    write_record(folder_of(tmp_path / "work", record), record)
    assert [path.name for path in tmp_path.iterdir()] == ["work"]
    assert read_records([tmp_path]) == [record]
    assert json.loads(next(tmp_path.rglob("*.json")).read_text())["method"] == record.method
