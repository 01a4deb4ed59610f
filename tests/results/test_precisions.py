from dataclasses import replace

import pytest

from kdzoo.results.groups import group
from kdzoo.results.leaderboard import leaderboard
from kdzoo.results.precisions import compare_precisions
from kdzoo.results.statistics import paired

from .conftest import AUTOENCODER, TEACHER, digits, record_of
from .test_leaderboard import tables

FLOAT32 = {"scratch": [75.0, 75.2, 75.4], "kd": [76.0, 76.1, 76.5], "reffakd": [70.0, 71.0, 72.0]}
BF16 = {"scratch": [75.1, 75.0, 75.4], "kd": [75.0, 75.2, 75.5], "reffakd": [70.3, 71.5, 72.4]}


def records(method, accuracies, precision, checkpoint="weights", **changes):
    """Make records as a run in one precision writes them: what it trained or asked is in that precision."""
    made = {"precision": precision}
    teacher = TEACHER | {
        "key": digits(["teacher", checkpoint, precision]),
        "origin": "checkpoint",
        "settings": {"checkpoint": digits(checkpoint), "precision": precision},
    }
    autoencoder = AUTOENCODER | {
        "key": digits(["autoencoder", precision]),
        "settings": AUTOENCODER["settings"] | made,
    }
    artifacts = {"scratch": {}, "reffakd": {"autoencoder": autoencoder}}.get(method, {"teacher": teacher})
    changes = {
        "settings": made,
        "protocol": {"name": f"e3-{precision}", "hash": digits(precision)},
        "artifacts": artifacts,
    } | changes
    return [record_of(method, seed, (50.0, 60.0, top1), **changes) for seed, top1 in enumerate(accuracies)]


def both(**changes):
    return [
        record
        for precision, table in (("float32", FLOAT32), ("bf16", BF16))
        for method, accuracies in table.items()
        for record in records(method, accuracies, precision, **changes)
    ]


def compared(found):
    return {
        (comparison.other.settings["precision"], pair.reference.name): pair.difference
        for comparison in compare_precisions(group(found))
        for pair in comparison.pairs
    }


def test_protocols_that_differ_in_precision_alone_are_compared_seed_by_seed():
    found = compared(both())
    assert list(found) == [("bf16", "scratch"), ("bf16", "kd"), ("bf16", "reffakd")]
    for method in FLOAT32:
        apart = [b - a for a, b in zip(FLOAT32[method], BF16[method], strict=True)]
        assert found["bf16", method] == paired(apart, step=0.01)
    assert {method: d.verdict for (_, method), d in found.items()} == {
        "scratch": "not resolved",
        "kd": "worse",
        "reffakd": "better",
    }


def test_page_shows_both_accuracies_their_difference_and_a_verdict():
    *_, table = tables(leaderboard(both()))
    assert table[0] == [
        *("method", "teacher: top-1 (key) in float32; in bf16", "float32", "bf16"),
        *("points over float32, paired: mean [95 % interval] (seeds)", "than float32"),
    ]
    keys = [digits(["teacher", "weights", precision])[:8] for precision in ("float32", "bf16")]
    difference = compared(both())["bf16", "kd"]
    assert table[2] == [
        *("kd", f"resnet50 76.28 ({keys[0]}); 76.28 ({keys[1]})"),
        *("76.20 ± 0.26 (3)", "75.23 ± 0.25 (3)", str(difference), "worse"),
    ]
    assert table[1][1] == "-"


def test_page_names_both_protocols():
    page = leaderboard(both())
    heading = next(line for line in page.splitlines() if line.startswith("## ") and "and in float32" in line)
    assert "resnet18 in bf16 and in float32" in heading
    assert f"e3-bf16-{digits('bf16')[:8]} and e3-float32-{digits('float32')[:8]}" in heading


def test_order_of_records_does_not_show():
    assert leaderboard(both()[::-1]) == leaderboard(both())


@pytest.mark.parametrize(
    "other",
    [
        {"settings": {"precision": "bf16", "batch_size": 128}},
        {"settings": {"precision": "bf16, compiled"}},
        {"benchmark": "cifar100-other"},
        {"data": {"fingerprint": digits("other images")}},
    ],
    ids=["batch size", "compiled", "benchmark", "data"],
)
def test_nothing_is_compared_where_more_than_the_precision_differs(other):
    found = records("kd", FLOAT32["kd"], "float32") + records("kd", BF16["kd"], "bf16", **other)
    assert compared(found) == {}
    assert "and in float32" not in leaderboard(found)


def test_compiled_students_are_compared_with_compiled_ones():
    found = [
        record
        for precision, table in (("float32, compiled", FLOAT32), ("bf16, compiled", BF16))
        for record in records("scratch", table["scratch"], precision)
    ]
    assert list(compared(found)) == [("bf16, compiled", "scratch")]
    assert "in bf16, compiled and in float32, compiled (" in leaderboard(found)


def test_another_teacher_is_no_pair_but_what_needs_none_is():
    found = [r for r in both() if r.settings["precision"] == "float32"]
    found += [r for r in both(checkpoint="others") if r.settings["precision"] == "bf16"]
    assert [method for _, method in compared(found)] == ["scratch", "reffakd"]


def test_one_method_under_two_teachers_is_two_rows():
    both_teachers = both() + [r for r in both(checkpoint="others") if r.method == "kd"]
    *_, table = tables(leaderboard(both_teachers))
    assert [row[0] for row in table[1:]].count("kd") == 2
    assert len({row[1] for row in table[1:] if row[0] == "kd"}) == 2
    assert [row[0] for row in table[1:]].count("scratch") == 1


def test_another_autoencoder_is_no_pair():
    longer = AUTOENCODER | {"settings": AUTOENCODER["settings"] | {"epochs": 200, "precision": "bf16"}}
    found = records("reffakd", FLOAT32["reffakd"], "float32")
    found += records("reffakd", BF16["reffakd"], "bf16", artifacts={"autoencoder": longer})
    assert compared(found) == {}


def test_answers_rounded_otherwise_are_no_pair():
    method = record_of("kd").settings["method"]
    settings = {"precision": "bf16", "method": method | {"teacher_pass": {"digests": "float16"}}}
    found = records("kd", FLOAT32["kd"], "float32") + records("kd", BF16["kd"], "bf16", settings=settings)
    assert compared(found) == {}


def auto():
    """Make what `--precision auto` records of a narrow student: its wide teacher computes in bf16."""
    return [
        replace(record, artifacts=wide.artifacts, key=digits(["auto", record.key]))
        for record, wide in zip(
            records("kd", [60.0, 61.0, 62.0], "float32"), records("kd", BF16["kd"], "bf16"), strict=True
        )
    ]


def test_a_teacher_in_another_precision_than_its_student_is_no_pair():
    kd = [record for record in both() if record.method == "kd"]
    assert compared(auto() + [r for r in kd if r.settings["precision"] == "bf16"]) == {}
    assert compared(auto() + both()) == compared(both())


def test_protocols_that_records_do_not_tell_apart_are_not_mixed():
    other = {"name": "e3-bf16", "hash": digits("another layout")}
    again = records("scratch", [75.0, 75.1, 75.2], "bf16", protocol=other)
    comparisons = compare_precisions(group(both() + again))
    assert sorted(len(comparison.pairs) for comparison in comparisons) == [1, 3]
    assert len({comparison.other.protocol for comparison in comparisons}) == 2


def test_checkpoints_of_unknown_content_are_no_pair():
    def unknown(precision):
        artifact = TEACHER | {"origin": "checkpoint", "settings": {}, "key": digits(precision)}
        return {"teacher": artifact}

    found = records("kd", FLOAT32["kd"], "float32", artifacts=unknown("float32"))
    found += records("kd", BF16["kd"], "bf16", artifacts=unknown("bf16"))
    assert compared(found) == {}


def test_what_needs_no_teacher_is_one_row_though_others_share_its_spelling():
    settings = record_of("scratch").settings["method"]
    found = both()
    for precision in ("float32", "bf16"):
        taught = records("scratch", [70.0, 71.0], precision)
        with_teacher = records("kd", [70.0, 71.0], precision)[0].artifacts
        changed = {"precision": precision, "method": settings | {"version": 2}}
        found += [
            replace(r, artifacts=with_teacher, settings=r.settings | changed, key=digits(["taught", r.key]))
            for r in taught
        ]
        found += records("at", [60.0, 61.0], precision, checkpoint="others")
    rows = [str(d) for (_, name), d in compared(found).items() if name.startswith("scratch")]
    assert str(compared(both())["bf16", "scratch"]) in rows


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_method_that_diverged_in_either_precision_is_shown_but_not_compared(precision):
    lost = ("kd", 0, precision)
    found = [r for r in both() if (r.method, r.seed, r.settings["precision"]) != lost]
    found += records("kd", [10.0], precision, status="diverged")
    assert compared(found)["bf16", "kd"] is None
    *_, table = tables(leaderboard(found))
    row = next(row for row in table if row[0] == "kd")
    assert row[-2:] == ["-", "-"]
    assert "(2 of 3)" in row[2 if precision == "float32" else 3]


def test_one_seed_is_shown_but_not_compared():
    found = records("kd", [76.0], "float32") + records("kd", [75.0], "bf16")
    *_, table = tables(leaderboard(found))
    assert table[1][2:] == ["76.00", "75.00", "-", "-"]


def test_few_images_compare_nothing():
    assert compared(both(data={"test": 299})) == {}


def test_what_cannot_be_told_apart_is_no_pair():
    again = records("kd", [70.0], "bf16", notes=["the same seed, once more"])
    found = [r for r in both() if r.method == "kd"] + again
    assert compared(found) == {}


def test_an_artifact_of_another_seed_is_no_pair():
    found = []
    for precision, seed in (("float32", 0), ("bf16", 1)):
        own = AUTOENCODER | {"settings": AUTOENCODER["settings"] | {"precision": precision}, "seed": seed}
        found += records("reffakd", [70.0, 71.0], precision, artifacts={"autoencoder": own})
    assert compared(found) == {}


def test_two_autoencoders_in_both_precisions_are_two_rows_that_can_be_told_apart():
    found = both()
    for precision in ("float32", "bf16"):
        own = {**AUTOENCODER["settings"], "epochs": 200, "precision": precision}
        longer = AUTOENCODER | {"settings": own, "key": digits(["longer", precision])}
        found += records("reffakd", [80.0, 81.0], precision, artifacts={"autoencoder": longer})
    *_, (_, *rows) = tables(leaderboard(found))
    assert len({row[0] for row in rows}) == len(rows) == 4


def test_page_says_what_the_intervals_do_not_cover():
    assert "the interval, which is over seeds of the student, does not cover it" in leaderboard(both())
