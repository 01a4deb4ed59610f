import copy
import json
import math
import pickle

import pytest

from kdzoo.checks import UsageError
from kdzoo.results.record import Record, accuracy_of
from kdzoo.results.schema import DEEPEST, LARGEST_FILE

from .conftest import epochs_of


def test_record_comes_back_from_its_text_unchanged(make_record):
    record = make_record()
    again = Record.from_json(record.to_json(), "record.json")
    assert again == record
    assert again.to_json() == record.to_json()
    assert Record.from_json(record.to_json().encode(), "record.json") == record


def test_numbers_that_are_not_finite_are_written_as_null(make_record):
    epochs = epochs_of(50.0)
    epochs[0]["train"]["loss"] = math.nan
    epochs[0]["test"]["nll"] = math.inf
    text = make_record(status="diverged", epochs=epochs).to_json()
    assert "NaN" not in text
    assert "Infinity" not in text
    again = Record.from_json(text, "record.json")
    assert again.epochs[0]["train"]["loss"] is None
    assert again.epochs[0]["test"]["nll"] is None


def test_what_must_repeat_is_all_but_timing_and_environment(make_record):
    first = make_record()
    second = make_record(timing={"seconds_per_epoch": 99.0}, environment={"device": "cuda"}, key=first.key)
    assert first != second
    assert first.repeatable() == second.repeatable()
    assert set(first.to_dict()) - set(first.repeatable()) == {"timing", "environment"}


def test_accuracies_are_named_by_how_their_epoch_was_selected():
    accuracy = accuracy_of(epochs_of(60.0, 77.0, 77.0, 70.0, validation=(50.0, 55.0, 56.0, 56.0)))
    assert accuracy == {
        "last": 70.0,
        "best_on_test": 77.0,
        "best_on_test_epoch": 2,
        "validation_selected": 77.0,
        "validation_selected_epoch": 3,
    }
    assert set(accuracy_of([]).values()) == {None}


@pytest.mark.parametrize(
    ("lost", "epochs", "expected"), [(1, 3, 2), (None, 2, 3), (None, 0, 1)], ids=["loss", "after", "at once"]
)
def test_a_diverged_record_says_when(make_record, lost, epochs, expected):
    course = epochs_of(*[10.0] * epochs)
    if lost is not None:
        course[lost]["train"]["loss"] = None
    record = make_record(status="diverged", epochs=course)
    assert Record.from_json(record.to_json(), "x").diverged_at == expected
    assert make_record().diverged_at is None


def change(place, value):
    def apply(content):
        *way, last = place
        for step in way:
            content = content[step]
        if value is ...:
            del content[last]
        else:
            content[last] = value

    return apply


BROKEN = {
    "newer schema": (change(["schema"], 2), "schema must be 1, got 2. A newer kdzoo wrote it"),
    "older schema": (change(["schema"], 0), "schema must be 1, got 0"),
    "schema true": (change(["schema"], True), "schema must be 1, got True"),
    "schema text": (change(["schema"], "1"), "schema must be 1, got '1'"),
    "key is not hexadecimal": (
        change(["key"], "../" + "0" * 61),
        r"key must be a text of the form [0-9a-f]{64}",
    ),
    "key too short": (change(["key"], "0" * 63), "key must be a text of the form"),
    "missing field": (change(["seed"], ...), "seed must be there, got 'nothing'"),
    "unknown field": (change(["extra"], 1), "the record must be made of schema, key"),
    "missing inner field": (change(["settings", "data", "test"], ...), "settings.data.test must be there"),
    "no test image": (change(["settings", "data", "test"], 0), "settings.data.test must be an integer in [1"),
    "negative seed": (change(["seed"], -1), "seed must be an integer in [0"),
    "boolean seed": (change(["seed"], True), "seed must be an integer"),
    "huge seed": (change(["seed"], 2**64), "seed must be an integer in [0"),
    "status": (change(["status"], "fine"), "status must be 'done' or 'diverged', got 'fine'"),
    "status list": (change(["status"], ["done"]), "status must be 'done' or 'diverged'"),
    "empty method": (change(["method"], ""), "method must be a text of 1 to 1000 characters"),
    "long method": (change(["method"], "k" * 1001), "method must be a text of 1 to 1000 characters"),
    "protocol": (change(["protocol", "hash"], "../.."), "protocol.hash must be a text of the form"),
    "origin": (
        change(["artifacts", "teacher", "origin"], "found"),
        "artifacts.teacher.origin must be 'trained' or",
    ),
    "score": (
        change(["artifacts", "teacher", "score", "top1"], 101),
        "score.top1 must be a number in [0, 100] or null",
    ),
    "accuracy over 100": (
        change(["epochs", 1, "test", "top1"], 100.5),
        "epochs[1].test.top1 must be a number in",
    ),
    "metric missing": (change(["epochs", 0, "test", "ece"], ...), "epochs[0].test.ece must be there"),
    "loss missing": (change(["epochs", 0, "train", "loss"], ...), "epochs[0].train.loss must be there"),
    "term is text": (change(["epochs", 0, "train", "ce"], "2"), "epochs[0].train.ce must be a number"),
    "epoch twice": (change(["epochs", 1, "epoch"], 1), "epochs must be numbered upwards, each epoch once"),
    "epoch 0": (change(["epochs", 0, "epoch"], 0), "epochs[0].epoch must be an integer in [1"),
    "epoch beyond": (
        change(["epochs", 2, "epoch"], 4),
        "epochs must be numbered up to settings.epochs = 3, got 4",
    ),
    "unfinished": (change(["epochs", 2], ...), "epochs must be complete up to 3, as the status is 'done'"),
    "no epochs": (change(["epochs"], []), "epochs must be complete up to 3"),
    "best is wrong": (
        change(["accuracy", "best_on_test"], 80.0),
        "accuracy.best_on_test must be 77.5, which the epochs",
    ),
    "last is null": (change(["accuracy", "last"], None), "accuracy.last must be 76.9, which the epochs give"),
    "done without accuracy": (
        change(["epochs", 2, "test", "top1"], None),
        "accuracy.last must be None, which the epochs",
    ),
    "validation without split": (
        change(["epochs", 0, "validation"], {"top1": 1, "top5": 1, "nll": 1, "ece": 1}),
        "epochs[0].validation must be left out, as settings.val_fraction = 0",
    ),
    "split without validation": (
        change(["settings", "val_fraction"], 0.1),
        "epochs[0].validation must be there, as settings.val_fraction > 0",
    ),
    "parameters": (change(["parameters"], 1.5), "parameters must be an integer"),
    "flops": (change(["flops"], None), "flops must be an integer"),
    "notes": (change(["notes"], "text"), "notes must be a list"),
    "timing": (
        change(["timing", "seconds_per_epoch"], -1),
        "timing.seconds_per_epoch must be a number in [0",
    ),
    "environment": (change(["environment"], []), "environment must be a mapping"),
    "too long a text": (change(["environment", "x"], "x" * 20_000), "texts of at most 10000 characters"),
    "surrogate": (change(["environment", "x"], "\ud800"), "text without lone surrogates"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_every_broken_rule_is_named_with_file_and_place(make_record, name):
    apply, message = BROKEN[name]
    content = copy.deepcopy(make_record().to_dict())
    apply(content)
    with pytest.raises(UsageError) as caught:
        Record.from_json(json.dumps(content), "runs/x/record.json")
    assert str(caught.value).startswith("runs/x/record.json: ")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert "record" in str(caught.value).split(". ")[-1] or "update kdzoo" in str(caught.value)


def test_a_done_record_has_a_last_accuracy(make_record):
    epochs = epochs_of(60.0, 70.0, math.nan)
    with pytest.raises(
        UsageError, match=r"accuracy.last must be a number, as the status is 'done', got None"
    ):
        Record.from_json(make_record(epochs=epochs).to_json(), "x")


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("pickle was executed",))


HOSTILE = {
    "pickle": (pickle.dumps(Bomb()), "JSON"),
    "not UTF-8": (b"\xff\xfe{}", "JSON in UTF-8"),
    "empty": (b"", "JSON (line 1"),
    "a list": (b"[]", "the content must be a mapping"),
    "a number": (b"1", "the content must be a mapping"),
    "deep": (b"[" * 200_000 + b"]" * 200_000, f"nested at most {DEEPEST} deep"),
    "deeper than allowed": (b"[" * 60 + b"]" * 60, f"nested at most {DEEPEST} deep"),
    "deep mappings": (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, f"nested at most {DEEPEST} deep"),
    "huge integer": (b'{"schema": ' + b"9" * 10_000 + b"}", "numbers of at most 40 characters"),
    "overflow": (b'{"schema": 1e999}', "finite numbers"),
    "NaN": (b'{"schema": NaN}', "a number that is not finite is null"),
    "Infinity": (b'{"schema": -Infinity}', "a number that is not finite is null"),
    "doubled name": (b'{"schema": 1, "schema": 2}', "a mapping without doubled names, got 'schema'"),
    "many entries": (b"[" + b"0," * 100_000 + b"0]", "at most 100000 entries"),
    "many bytes": (b" " * (LARGEST_FILE + 1), "size must be at most"),
    "class": (b'{"__class__": "os.system", "__reduce__": ["os.system", "true"]}', "schema must be there"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_content_is_refused_in_a_line(name):
    content, message = HOSTILE[name]
    with pytest.raises(UsageError) as caught:
        Record.from_json(content, "evil.json")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_names_of_attributes_are_only_data(make_record):
    record = make_record(environment={"__class__": "x", "__init__": {"__globals__": 1}})
    again = Record.from_json(record.to_json(), "x")
    assert type(again) is Record
    assert again.environment["__class__"] == "x"
