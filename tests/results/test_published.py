"""Published numbers are the paper's, and stand in a row of their own."""

import copy
import json
from pathlib import Path

import pytest

from kdzoo.results.leaderboard import leaderboard
from kdzoo.results.published import PUBLISHED, published
from kdzoo.training.benchmark import load_benchmark

from .conftest import TEACHER, record_of

TABLES = json.loads((Path(__file__).parent / "paper_tables.json").read_text())


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row.benchmark)
def test_every_number_stands_in_the_papers_tables(row):
    if row.table.endswith("Table 4"):
        theirs = TABLES["table4"]
    else:
        theirs = dict(zip(TABLES["table8"]["columns"], TABLES["table8"][row.benchmark], strict=True))
    theirs = {**theirs, "teacher": theirs[row.teacher], "scratch": theirs[row.student]}
    assert row.accuracy == {name: theirs[name] for name in row.accuracy}
    assert len(row.accuracy) == len([n for n in theirs if n not in ("dataset", row.teacher, row.student)])


DATA = {"name": "fashion_mnist", "train": 60_000}


def records(benchmark, student, teacher, **data):
    changes = {
        "benchmark": benchmark, "settings": {"student": {"name": student}}, "data": {**DATA, **data},
    }  # fmt: skip
    taught = {"artifacts": {"teacher": {**TEACHER, "network": teacher}}}
    made = [("scratch", {}), ("kd", taught), ("kd:alpha=0.5", taught), ("reffakd", {})]
    return [record_of(method, **copy.deepcopy({**changes, **more})) for method, more in made]


def row_of(page, start):
    line = next(line for line in page.splitlines() if line.startswith(start))
    return [cell.strip() for cell in line.split("|")][1:-1]


def test_published_numbers_stand_in_a_row_of_their_own_under_the_same_methods():
    page = leaderboard(records("fashion_mnist", "lenet5", "resnet18"))
    header = row_of(page, "| benchmark")
    found = dict(zip(header, row_of(page, "| published: Doshi and Kim 2024"), strict=True))
    assert found["teacher resnet18"] == "95.30"
    assert found["student lenet5 (scratch)"] == "92.14"
    assert (found["kd"], found["reffakd"]) == ("92.30", "92.37")
    assert found["kd:alpha=0.5"] == "-"
    assert "best cells of a grid" in page
    assert "Another protocol than ours" in page


@pytest.mark.parametrize(
    ("benchmark", "student", "teacher"),
    [
        ("fashion_mnist", "lenet5", "resnet34"),
        ("fashion_mnist", "resnet8", "resnet18"),
        ("own", "lenet5", "resnet18"),
    ],
)
def test_other_pairs_have_no_published_row(benchmark, student, teacher):
    assert "published" not in leaderboard(records(benchmark, student, teacher)).lower()


@pytest.mark.parametrize("data", [{"name": "digits"}, {"train": 1_000}])
def test_other_data_has_no_published_row(data):
    assert "published" not in leaderboard(records("fashion_mnist", "lenet5", "resnet18", **data)).lower()


def test_validation_images_are_training_images_of_the_published_row():
    split = {"train": 54_000, "validation": 6_000}
    (row,) = published("fashion_mnist", "lenet5", "resnet18", {**DATA, **split})
    assert row.table.endswith("Table 4")


def test_without_a_teacher_any_row_of_the_student_fits():
    (row,) = published("fashion_mnist", "lenet5", None, {**DATA, "validation": 0})
    assert row.table.endswith("Table 4")


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row.benchmark)
def test_a_published_pair_is_that_of_our_benchmark(row):
    found = load_benchmark(row.benchmark)
    assert (found.name, found.student.network, found.section("teacher").network) == (
        row.benchmark, row.student, row.teacher,
    )  # fmt: skip
