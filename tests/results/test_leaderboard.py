import csv
import io
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdzoo.checks import UsageError
from kdzoo.results.leaderboard import TABLE8, leaderboard, leaderboard_csv, plain_rows, terminal_table
from kdzoo.results.statistics import paired, summarise

from .conftest import AUTOENCODER, TEACHER, digits, epochs_of, record_of


def tables(page):
    """Read the tables of a page as a reader of GitHub's markdown does."""
    blocks = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)
    rows = [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()] for block in blocks]
    return [
        [[cell.strip() for cell in row] for row in block if not set("".join(row)) <= set("-:")]
        for block in rows
    ]


def seeds_of(method, accuracies, **changes):
    return [
        record_of(method, seed, (50.0, top1 + 1, top1), **changes) for seed, top1 in enumerate(accuracies)
    ]


ALL = [
    *seeds_of("scratch", [75.0, 75.2]),
    *(r for i, m in enumerate(TABLE8) for r in seeds_of(m, [76 + i / 10, 76.3 + i / 7])),
    *seeds_of("crd", [75.5, 75.7]),
    *seeds_of("attention:p=1", [70.0, 71.0]),
]


def test_row_has_the_layout_of_table_8():
    header, row = tables(leaderboard(ALL))[0]
    assert header == [
        *("benchmark", "teacher resnet50", "student resnet18 (scratch)"),
        *(
            "at",
            "kd",
            "fitnet",
            "kdsvd",
            "pkt",
            "rkd",
            "dkd",
            "dkd+reffakd",
            "reffakd",
            "attention:p=1",
            "crd",
        ),
    ]
    assert row[:4] == ["cifar100-resnet50-resnet18", "76.28", "75.10 ± 0.14 (2)", "76.15 ± 0.21 (2)"]
    assert row[-1] == str(summarise([75.5, 75.7]))


def test_only_what_has_records_has_a_column():
    header, _ = tables(leaderboard([record_of("rkd"), record_of("kd")]))[0]
    assert header == ["benchmark", "teacher resnet50", "kd", "rkd"]


def test_page_states_the_protocol_in_words():
    page = leaderboard(
        [*ALL, record_of("pkt", 2, notes=["Loss was clipped."], data={"warnings": ["Blurred copy."]})]
    )
    for words in (
        "## cifar100-resnet50-resnet18: resnet50 -> resnet18 (protocol table7-",
        "- Data: cifar100, 100 classes; 50,000 training, 0 validation and 10,000 test images",
        "- Student: resnet18",
        "- Schedule: 3 epochs, batch size 256",
        "- Optimizer: SGD (lr 0.1, momentum 0.9, weight_decay 0.0005); "
        "learning rate: MultiStepLR (milestones 60/120/160, gamma 0.2)",
        "- Views: flip; rotation (degrees 15)",
        "- Precision: float32",
        "- Validation split: none",
        "- Seeds: 0, 1, 2",
        f"- Teacher: resnet50; trained with seed 0; top-1 76.28 %; top-5 93.10 %; NLL 0.9100; ECE 4.50 %; "
        f"key {TEACHER['key'][:8]}",
        f"- Autoencoder, for dkd+reffakd, reffakd: cae; trained with seed 0; mse 0.0123; "
        f"key {AUTOENCODER['key'][:8]}; optimizer SGD (lr 0.1)",
        "- Data warning: Blurred copy.",
        "- Note for pkt: Loss was clipped.",
    ):
        whole = "" if words.startswith("#") else "$"
        assert re.search(f"^{re.escape(words)}{whole}", page, re.MULTILINE), words


def test_details_give_every_metric_and_name_what_was_selected():
    epochs = epochs_of(60.0, 78.0, 77.0, validation=(60.0, 61.0, 62.0))
    epochs[2]["test"]["agreement"] = 88.0
    header, teacher, kd = tables(
        leaderboard([record_of("kd", epochs=epochs, settings={"val_fraction": 0.1})])
    )[1]
    found = dict(zip(header, kd, strict=True))
    assert found == {
        "method": "kd",
        "seeds": "0",
        "top-1, last epoch": "77.00",
        "top-5": "92.00",
        "best on test (selected on the test set)": "78.00",
        "validation-selected": "77.00",
        "NLL": "3.0000",
        "ECE": "5.00",
        "agreement with the teacher": "88.00",
        "parameters": "11,220,132",
        "FLOPs": "556,000,000",
        "s/epoch (on the machine that ran)": "12.50",
        "status": "done",
    }
    assert teacher[:4] == ["teacher resnet50", "-", "76.28", "93.10"]
    assert "validation" not in " ".join(tables(leaderboard([record_of()]))[1][0])


def test_two_protocols_never_share_a_table():
    other = {"name": "table7", "hash": digits("another")}
    page = leaderboard([record_of("kd"), record_of("rkd", protocol=other)])
    assert [table[0][2:] for table in tables(page)[::2]] in ([["kd"], ["rkd"]], [["rkd"], ["kd"]])
    assert page.count("\n## ") == 2


def test_not_even_a_wrong_hash_mixes_two_protocols():
    page = leaderboard([record_of("kd"), record_of("rkd", settings={"batch_size": 64})])
    assert page.count("\n## ") == 2
    assert "batch size 64" in page


def test_two_benchmarks_never_share_a_table():
    assert leaderboard([record_of("kd"), record_of("rkd", benchmark="other")]).count("\n## ") == 2


def test_two_teachers_have_two_tables_and_what_needs_none_stands_in_both():
    second = {"teacher": {**TEACHER, "key": digits("second"), "network": "wrn"}}
    records = [record_of("scratch"), record_of("reffakd"), record_of("kd"), record_of("kd", artifacts=second)]
    page = leaderboard(records)
    headers = [table[0] for table in tables(page)[::2]]
    rest = ["student resnet18 (scratch)", "kd", "reffakd"]
    assert headers == [["benchmark", "teacher resnet50", *rest], ["benchmark", "teacher wrn", *rest]]
    assert len(plain_rows(records)) == 6
    assert len(leaderboard_csv(records).splitlines()) == 1 + 4


def test_records_without_any_teacher_have_a_table_of_their_own():
    (header, row), _ = tables(leaderboard([record_of("scratch"), record_of("reffakd")]))
    assert header == ["benchmark", "student resnet18 (scratch)", "reffakd"]
    assert row[1:] == ["76.90", "76.90"]


def test_an_ensemble_is_a_teacher_too():
    second = {**TEACHER, "key": digits("second")}
    both = record_of("kd+ensemble", artifacts={"teacher": TEACHER, "teacher-2": second})
    page = leaderboard([record_of("kd"), both, record_of("scratch")])
    assert page.count("\n## ") == 2
    assert "resnet50 + resnet50 -> resnet18" in page


def test_one_spelling_with_two_recipes_is_two_columns():
    other = {**AUTOENCODER, "key": digits("other"), "settings": {**AUTOENCODER["settings"], "epochs": 9}}
    records = [record_of("reffakd", 0), record_of("reffakd", 1, artifacts={"autoencoder": other})]
    page = leaderboard(records)
    header = tables(page)[0][0]
    assert len(header) == 3
    assert all(re.fullmatch(r"reffakd \\\[[0-9a-f]{8}\\\]", name) for name in header[1:])
    assert "autoencoder.settings.epochs 9." in page
    assert "autoencoder.settings.epochs 3." in page


def test_an_artifact_of_each_seed_is_one_recipe():
    parts = [{**AUTOENCODER, "key": digits(s), "seed": s, "settings": {"seed": s}} for s in (0, 1)]
    records = [record_of("reffakd", s, artifacts={"autoencoder": part}) for s, part in enumerate(parts)]
    assert tables(leaderboard(records))[0][0] == ["benchmark", "reffakd"]


def test_one_seed_twice_is_never_averaged():
    records = [record_of("kd", 0), record_of("kd", 0, (1.0, 2.0, 3.0))]
    (header, row), _ = tables(leaderboard(records))
    assert len(header) == 4
    assert sorted(row[2:]) == ["3.00", "76.90"]


def test_two_tales_of_one_member_are_refused():
    record = record_of()
    with pytest.raises(UsageError, match="same key"):
        leaderboard([record, record_of(key=record.key, notes=["x"])])


def test_diverged_members_are_named_and_never_averaged():
    lost = epochs_of(60.0, 10.0)
    lost[1]["train"]["loss"] = None
    gone = record_of("rkd", 1, status="diverged", epochs=lost)
    records = [record_of("rkd", 0), gone, record_of("rkd", 2), record_of("at", status="diverged", epochs=[])]
    page = leaderboard(records)
    (header, row), details = tables(page)
    assert dict(zip(header, row, strict=True))["rkd"] == "76.90 ± 0.00 (2 of 3)"
    assert dict(zip(header, row, strict=True))["at"] == "diverged"
    assert [line[-1] for line in details[2:]] == [
        "seed 0 diverged at epoch 1",
        "2 done; seed 1 diverged at epoch 2",
    ]
    at, rkd = plain_rows(records)
    assert (at["seeds"], at["diverged"], at["last_mean"]) == ([], {0: 1}, None)
    assert (rkd["seeds"], rkd["diverged"], rkd["last_count"]) == ([0, 2], {1: 2}, 2)
    assert "rkd: 2 done; seed 1 diverged at epoch 2." in terminal_table(records)
    assert tables(leaderboard([record_of("kd", 0), record_of("kd", 1, status="diverged", epochs=[])]))[0][1][
        2
    ] == ("76.90 (1 of 2)")


def bold(records):
    page = leaderboard(records)
    cells = {c for table in tables(page) for row in table for c in row if c.startswith("**")}
    assert ("Bold:" in page) == bool(cells)
    return cells


def test_bold_is_what_is_ahead_beyond_seed_noise():
    methods = [*seeds_of("kd", [77.0, 77.1, 77.2]), *seeds_of("rkd", [75.0, 75.2, 75.1])]
    ahead = [*seeds_of("scratch", [74.0, 74.1, 74.2]), *methods]
    assert bold(ahead) == {"**77.10 ± 0.10 (3)**"}
    assert bold([*seeds_of("scratch", [90.0] * 3), *methods]) == set(), "behind the student on its own"
    assert bold([*ahead, *seeds_of("at", [77.3, 76.9, 77.0])]) == set()
    assert bold([*seeds_of("kd", [77.0]), *seeds_of("rkd", [70.0])]) == set()
    assert bold([*seeds_of("kd", [77.0, 77.1]), *seeds_of("rkd", [70.0])]) == set()
    assert bold(seeds_of("kd", [77.0, 77.1])) == set()
    small = {"data": {"test": 360}}
    assert bold([*seeds_of("kd", [77.0, 77.1], **small), *seeds_of("rkd", [70.0, 70.1], **small)]) == set()
    lost = record_of("kd", 3, status="diverged", epochs=[])
    assert bold([*ahead, lost]) == set()


def test_bold_pairs_by_seed():
    # Seeds differ by far more than methods, and every seed says the same.
    noisy = [*seeds_of("kd", [70.1, 80.1, 75.1]), *seeds_of("rkd", [70.0, 80.0, 75.0])]
    assert len(bold(noisy)) == 1


def test_bold_and_verdicts_are_one_comparison():
    # Twice the same two images more: by chance, though the spread is zero.
    few = {"data": {"test": 1000}}
    records = [r for m, top1 in (("kd", 75.2), ("rkd", 75.0)) for r in seeds_of(m, [top1, top1], **few)]
    assert bold(records) == set()
    assert "not resolved" in leaderboard(records)
    surely = [r for m, top1 in (("kd", 77.2), ("rkd", 75.0)) for r in seeds_of(m, [top1, top1], **few)]
    assert len(bold(surely)) == 1
    assert re.search(r"\| rkd +\|.*worse", leaderboard(surely))


def test_methods_are_compared_with_scratch_and_kd_seed_by_seed():
    records = [
        *seeds_of("scratch", [75.0, 75.4, 75.2]),
        *seeds_of("kd", [76.0, 76.41, 76.2]),
        *seeds_of("rkd", [74.0, 74.4, 74.21]),
        *seeds_of("at", [75.0, 76.4, 74.2]),
        *seeds_of("pkt", [77.0]),
    ]
    page = leaderboard(records)
    header, *lines = next(table for table in tables(page) if "than kd" in table[0])
    assert header[0::2][1:] == ["than scratch", "than kd"]
    found = {line[0]: line[1:] for line in lines}
    assert "pkt" not in found  # one seed
    assert found["scratch"][:2] == ["-", "-"]
    assert found["scratch"][3] == "worse"
    assert found["kd"] == [str(paired([1.0, 76.41 - 75.4, 1.0], step=0.01)), "better", "-", "-"]
    assert (found["rkd"][1], found["rkd"][3]) == ("worse", "worse")
    assert (found["at"][1], found["at"][3]) == ("not resolved", "not resolved")
    assert "a verdict by itself is no proof" in page


def test_a_method_that_diverged_on_a_seed_is_not_compared():
    lost = record_of("rkd", 2, (50.0,), status="diverged")
    records = [
        *seeds_of("scratch", [75.0, 75.4]),
        *seeds_of("rkd", [77.0, 77.4]),
        *seeds_of("at", [77.0, 77.4]),
    ]
    assert re.search(r"\| rkd +\|.*better", leaderboard(records))
    page = leaderboard([*records, lost])
    assert not re.search(r"\| rkd +\|.*better", page)
    assert re.search(r"\| at +\|.*better", page)


def test_rounded_answers_of_a_teacher_have_a_table_of_their_own():
    rounded = {"method": {**record_of("kd").settings["method"], "teacher_pass": {"digests": "float16"}}}
    page = leaderboard([record_of("scratch"), record_of("kd"), record_of("kd", settings=rounded)])
    assert page.count("\n## ") == 2
    assert page.count("its answers in float16") == 1
    assert all(re.search(r"student resnet18 \(scratch\)", part) for part in page.split("\n## ")[1:])


def test_views_that_repeat_stand_in_the_heading():
    views = {"resize": 32, "flip": True, "repeat": 4}
    for page in (leaderboard, terminal_table):
        found = page([record_of("kd", settings={"views": views})])
        assert "views repeat after 4 epochs)" in " ".join(found.split())
        assert "repeat after" not in page([record_of("kd", settings={"views": {"flip": True}})])


def test_nothing_is_compared_where_one_seed_or_few_images_allow_nothing():
    one = [record_of("scratch"), record_of("kd")]
    few = [record_of(m, s, (50.0, 60.0 + s)) for m in ("scratch", "kd") for s in (0, 1)]
    for record in few:
        record.settings["data"]["test"] = 299
    for records in (one, few):
        assert "than scratch" not in leaderboard(records)


@pytest.mark.parametrize("write", [leaderboard, terminal_table])
def test_a_small_test_set_ranks_nothing(write):
    note = "One of the 360 test images is worth 0.28 points: this table ranks nothing."
    assert note in write([record_of(data={"test": 360})])
    assert "ranks nothing" not in write([record_of(data={"test": 1000})])


def test_last_epochs_are_said_to_involve_no_selection():
    assert "no selection is involved" in leaderboard([record_of()])
    assert "* selected on the test set; all else is of the last epoch" in terminal_table([record_of()])


@settings(deadline=None, max_examples=25)
@given(st.permutations(ALL))
def test_order_of_records_does_not_show(records):
    assert leaderboard(records) == leaderboard(ALL)
    assert leaderboard_csv(records) == leaderboard_csv(ALL)
    assert terminal_table(records) == terminal_table(ALL)
    assert plain_rows(records) == plain_rows(ALL)


EVIL = "a|b`c\n\n# x <img src=x> **z** \x1b[31m\u202e ~~s~~ [l](http://x) _i_ \\ \u4e2d"


def test_hostile_names_break_no_page_and_no_terminal():
    artifacts = {"teacher": {**TEACHER, "network": EVIL}, EVIL: {**AUTOENCODER, "network": EVIL}}
    record = record_of(
        EVIL,
        benchmark=EVIL,
        notes=[EVIL],
        artifacts=artifacts,
        protocol={"name": EVIL, "hash": "0" * 64},
        settings={"student": {"name": EVIL}},
        data={"name": EVIL, "warnings": [EVIL]},
    )
    plain, page = leaderboard([record_of()]), leaderboard([record], title=EVIL)
    assert [(len(t), len(t[0])) for t in tables(page)] == [(len(t), len(t[0])) for t in tables(plain)]
    assert page.count("\n## ") == 1
    assert all(len(row) == len(table[0]) for table in tables(page) for row in table)
    assert not re.search(r"(?<!\\)[<`~\[\]*]", page.replace("best on test*", ""))
    for text in (page, terminal_table([record])):
        assert all(c.isprintable() or c == "\n" for c in text)
    assert terminal_table([record]).isascii()
    assert max(map(len, terminal_table([record]).splitlines())) <= 100


def test_names_that_print_alike_keep_their_own_columns():
    header, row = tables(
        leaderboard([record_of("kd", accuracies=(1.0, 1.0, 1.0)), record_of("kd\n"), record_of("benchmark")])
    )[0]
    assert header[2:] == ["kd", "benchmark", "kd"]
    assert row[2:] == ["1.00", "76.90", "76.90"]


def test_csv_comes_back_unrounded_one_line_a_record():
    lines = list(csv.DictReader(io.StringIO(leaderboard_csv(ALL))))
    assert len(lines) == len(ALL)
    by_key = {line["key"]: line for line in lines}
    for record in ALL:
        line = by_key[record.key]
        assert float(line["last"]) == record.accuracy["last"]
        assert float(line["best_on_test"]) == record.accuracy["best_on_test"]
        assert (line["method"], line["seed"], line["status"]) == (record.method, str(record.seed), "done")
        taught = record.artifacts.get("teacher")
        assert line["teacher_key"] == (taught["key"] if taught else "")
        assert line["teacher_top1"] == ("76.28" if taught else "")
        assert line["validation_selected"] == ""
        assert int(line["parameters"]) == record.parameters
    assert leaderboard_csv([]) == ""


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x", " =1", "\t=1", '=HYPERLINK("x","y"),\n"'])
def test_csv_holds_no_formula(name):
    line = next(csv.DictReader(io.StringIO(leaderboard_csv([record_of(name, benchmark=name)]), newline="")))
    assert line["method"] == line["benchmark"] == "'" + name


def test_terminal_has_teacher_scratch_and_table_8s_order_within_100_columns():
    text = terminal_table(
        [*ALL, *seeds_of("kd:temperature=20:alpha=0.6+reffakd:gamma=auto:target=pixels", [1.0] * 12)]
    )
    assert max(map(len, text.splitlines())) <= 100
    start = text.index("---")
    names = re.findall(r"^(\S+)", text[start:], re.MULTILINE)[1:]
    assert names[:11] == ["teacher", "scratch", *TABLE8]
    assert re.search(r"^at +76\.15 ± 0\.21 \(2\) +77\.15 ± 0\.21 +3\.000 +5\.00 +12\.50$", text, re.MULTILINE)


def test_terminal_holds_absurd_numbers():
    epochs = epochs_of(1.0, 1.0, 1.0)
    epochs[2]["test"]["nll"] = 1e99
    huge = epochs_of(1.0, 1.0, 1.0)
    huge[2]["test"]["nll"] = 999_999.1234
    records = [record_of("kd", s, epochs=epochs, timing={"seconds_per_epoch": 1e9}) for s in range(12)]
    records += [
        record_of("k" * 99, s, epochs=huge, timing={"seconds_per_epoch": 999_999.0}) for s in range(12)
    ]
    records += [record_of("k" * 99, s, status="diverged", epochs=[]) for s in range(12, 15)]
    assert max(map(len, terminal_table(records).splitlines())) <= 100
    assert "1e+99" in leaderboard(records)


def test_nothing_recorded_is_said():
    assert leaderboard([]) == "# Leaderboard\n\nThere are no records yet.\n"
    assert terminal_table([]) == "There are no records yet."
    assert plain_rows([]) == []


def test_plain_rows_summarise_over_seeds():
    scratch = plain_rows(ALL)[0]
    assert scratch["method"] == "scratch"
    assert scratch["last_mean"] == pytest.approx(75.1)
    assert scratch["last_std"] == pytest.approx(0.02**0.5)
    assert scratch["seeds"] == [0, 1]
    assert scratch["teacher_top1"] == 76.28


def test_results_bring_neither_torch_nor_mmengine():
    code = (
        "import sys; import kdzoo.results.leaderboard, kdzoo.results.store; "
        "print(sorted({'torch', 'mmengine', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_is_said_of_bold_where_one_seed_allows_none():
    page = leaderboard([record_of("kd"), record_of("rkd")])
    assert "bold" not in page.lower()
    assert "A number without ± is of one seed" in page
    assert "No method is bold" in leaderboard([*seeds_of("kd", [77.0, 77.1]), *seeds_of("rkd", [77.1, 77.0])])


def test_a_sweep_can_be_told_apart_in_a_terminal():
    shares = (0.25, 0.5, 0.75)
    names = [f"kd:temperature=20+classmean:share={share}:tau=0.125" for share in shares]
    text = terminal_table([record_of(name) for name in names])
    for share in shares:
        (line,) = (line for line in text.splitlines() if f"share={share}" in line)
        assert len(line) <= 100
    assert "..." not in text
    assert max(map(len, text.splitlines())) <= 100
    assert "kd:temperature=20+classmean\n:share=0.5:tau=0.125\n" in "\n".join(
        line.split("  ")[0].rstrip() for line in text.splitlines()
    )
