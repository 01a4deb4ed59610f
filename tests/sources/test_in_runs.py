"""Sources in whole runs of the tiny benchmark: what they share, what their keys hold, and a user's files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tinyzoo import Bench

from kdzoo import api, cli
from kdzoo.data import load_dataset
from kdzoo.data.split import split_validation
from kdzoo.outputs import Batch
from kdzoo.registry import SOURCES
from kdzoo.sources import Source, base
from kdzoo.sources.base import Workshop
from kdzoo.training import artifacts

CONTROLS = "kd+label_smoothing,kd+permuted,kd+pixels,kd+random_cae"


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """The rows of every class source that was made ready, by name; of the last, where there were several."""
    found: dict[str, torch.Tensor] = {}
    fit = base.ClassSource.fit

    def watched(source: base.ClassSource, shop: Any) -> None:
        fit(source, shop)
        labels = torch.arange(shop.num_classes)
        values = source(Batch(torch.zeros(len(labels), 1), labels, None)).log_probs(1.0).exp().double()
        found[next(n for n in SOURCES.names() if SOURCES.find(n) is type(source))] = values

    monkeypatch.setattr(base.ClassSource, "fit", watched)
    return found


def test_one_autoencoder_serves_reffakd_and_who_follows_it(
    bench: Bench, rows: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    train = artifacts.Foundry._train

    def counted(foundry: Any, plan: Any, member: Any) -> Any:
        trained.append(plan.name)
        return train(foundry, plan, member)

    monkeypatch.setattr(artifacts.Foundry, "_train", counted)
    results = bench.run("reffakd,dkd+permuted,kd+label_smoothing,kd+random_cae,kd+pixels")
    assert not results.failed
    assert trained == ["autoencoder"]
    used = {r.method: {name: a["key"] for name, a in r.artifacts.items()} for r in results.records}
    assert used["dkd+permuted"] == used["kd+label_smoothing"] == used["reffakd"]
    assert list(used["reffakd"]) == ["autoencoder"]
    assert used["kd+random_cae"] == used["kd+pixels"] == {}
    # What they make of it is another thing each.
    diagonal = rows["reffakd"].diagonal()
    torch.testing.assert_close(rows["permuted"].diagonal(), diagonal)
    torch.testing.assert_close(rows["label_smoothing"].diagonal(), diagonal.mean().expand(4))
    kinds = ("reffakd", "label_smoothing", "permuted", "random_cae", "pixels")
    assert len({tuple(rows[name].flatten().tolist()) for name in kinds}) == 5


def test_who_comes_later_fetches_what_reffakd_trained(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.run("reffakd")
    monkeypatch.setattr(artifacts.Foundry, "_train", lambda *a: pytest.fail("an autoencoder was trained"))
    assert not bench.run("kd+permuted,kd+label_smoothing").failed
    with pytest.raises(pytest.fail.Exception):
        bench.run("kd+permuted:target=pixels")


def test_controls_are_the_same_alone_and_together_and_need_no_teacher(
    bench: Bench, make_bench: Callable[..., Bench]
) -> None:
    """Law 1 and law 4, for the sources of this folder."""
    methods = f"{CONTROLS},kd+uniform,kd+teacher_mean"
    assert not bench.run(methods, seeds=2).failed
    together = bench.contents()
    assert len(together) == 12
    for method in methods.split(","):
        bench.run(method, work=method)
        assert bench.contents(method) == {(method, 0): together[method, 0]}
    free = make_bench('teacher = dict(network=dict(type="untouchable"))')
    assert not free.run(f"{CONTROLS},kd+uniform").failed
    assert free.contents() == {
        name: found for name, found in together.items() if name[0] != "kd+teacher_mean" and name[1] == 0
    }


def test_rows_of_controls_follow_the_seed(bench: Bench, rows: dict[str, torch.Tensor]) -> None:
    found = []
    for seed in ("0,", "1,"):
        bench.run(CONTROLS, seeds=seed)
        found.append(dict(rows))
    assert all(not torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_followers_take_the_gamma_that_a_benchmark_sets_for_reffakd(
    make_bench: Callable[..., Bench], rows: dict[str, torch.Tensor]
) -> None:
    bench = make_bench("sources = dict(reffakd=dict(gamma=0.75), permuted=dict(per_class=5))")
    results = bench.run(f"reffakd,kd+reffakd:gamma=auto,{CONTROLS}")
    options = {r.method: r.settings["method"]["source_options"] for r in results.records}
    assert [r.method for r in results.records] == ["reffakd", "reffakd:gamma=auto", *CONTROLS.split(",")]
    gammas = {name: found["gamma"] for name, found in options.items()}
    assert gammas == {
        "reffakd": 0.75, "reffakd:gamma=auto": "auto", "kd+label_smoothing": 0.75, "kd+permuted": 0.75,
        "kd+pixels": "auto", "kd+random_cae": "auto",
    }  # fmt: skip
    assert {name for name, found in options.items() if found["per_class"] == 5} == {"kd+permuted"}


def test_random_cae_has_its_network_in_its_key_and_record(
    make_bench: Callable[..., Bench], rows: dict[str, torch.Tensor]
) -> None:
    methods, keys, found = "kd+random_cae,kd+pixels,scratch", [], []
    for name, network in (("one", "autoencoder"), ("other", "resnet8")):
        bench = make_bench(f'autoencoder = dict(network=dict(type="{network}"))', name)
        results = bench.run(methods)
        keys.append({r.method: r.key for r in results.records})
        found.append(rows["random_cae"])
        described = results.records[0].settings["method"]["source_builds"]
        assert described == {"autoencoder": {"network": network, "options": {}}}
        assert all("source_builds" not in r.settings["method"] for r in results.records[1:])
    assert {method for method in keys[0] if keys[0][method] != keys[1][method]} == {"kd+random_cae"}
    assert not torch.equal(*found)


def test_an_encoder_that_is_missing_is_told_before_training(
    make_bench: Callable[..., Bench], capsys: pytest.CaptureFixture[str]
) -> None:
    for changes, message in (
        ("del autoencoder", "its config has no section 'autoencoder'"),
        ('autoencoder = dict(network=dict(type="autoencode"))', "Did you mean 'autoencoder'"),
    ):
        bench = make_bench(changes, changes[:3])
        assert cli.main(bench.command("kd+random_cae")) == 2
        assert message in capsys.readouterr().err


class Builder(Source):
    """Builds two networks, and looks at them."""

    builds = ("autoencoder", "teacher")

    def fit(self, workshop: Workshop) -> None:
        before = torch.random.get_rng_state()
        first, again, other = (workshop.untrained("autoencoder", purpose) for purpose in "aab")
        teacher = workshop.untrained("teacher", "a")
        assert torch.equal(torch.random.get_rng_state(), before)
        weights = [next(network.parameters()) for network in (first, again, other)]
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])
        assert not any(network.training for network in (first, again, other, teacher))
        raise ZeroDivisionError("it came this far")


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (("autoencoder", "teacher"), "it came this far"),
        (("teacher",), "a source that builds 'autoencoder' must declare it in builds, which has ['teacher']"),
    ],
)
def test_what_is_built_untrained_is_keyed_and_must_be_declared(
    declared: tuple[str, ...], message: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    SOURCES.names()
    monkeypatch.setitem(SOURCES._module_dict, "builder", Builder)
    monkeypatch.setattr(Builder, "builds", declared)
    results = bench.run("kd+builder,scratch")
    assert str(results.failed["kd+builder, seed 0"]) == message
    assert [r.method for r in results.records] == ["scratch"]
    # It is built, not made an artifact.
    assert not list(bench.folder.glob("work/artifacts/*"))


def test_teacher_mean_is_made_of_the_cohorts_teacher(bench: Bench, rows: dict[str, torch.Tensor]) -> None:
    results = bench.run("kd,kd+teacher_mean,dkd+teacher_mean:temperature=1:views=augmented")
    assert not results.failed
    assert [list(r.artifacts) for r in results.records] == [["teacher"]] * 3
    assert len({r.artifacts["teacher"]["key"] for r in results.records}) == 1
    torch.testing.assert_close(rows["teacher_mean"].sum(dim=1), torch.ones(4, dtype=torch.float64))


# Files of the user's own.


def teach(bench: Bench, name: str, rows: np.ndarray) -> str:
    """Write a file beside the benchmark's config, and give its path in the method grammar's form."""
    path = bench.folder / name
    if path.suffix == ".npy":
        np.save(path, rows)
    else:
        save_file({"rows": torch.from_numpy(rows)}, path)
    return str(path)


def by_class() -> np.ndarray:
    return np.eye(4) * 3.0 + np.arange(16.0).reshape(4, 4) / 10


def distributions(rows: np.ndarray) -> np.ndarray:
    return np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)


def learnt(bench: Bench, work: str) -> bytes:
    """The weights of the only student of a work directory."""
    ((_, weights),) = bench.contents(work).values()
    return weights


@pytest.mark.parametrize("kind", ["scores", "probabilities"])
@pytest.mark.parametrize("val_fraction", [0.0, 0.25])
def test_the_same_labels_teach_the_same_however_they_are_written(
    bench: Bench, kind: str, val_fraction: float
) -> None:
    """A row per class, and a row per image that repeats its class's; arrays and tensors."""
    rows = by_class() if kind == "scores" else distributions(by_class())
    loaded = load_dataset("tiny").train.labels
    weights = set()
    for name in ("class.npy", "class.safetensors", "image.npy", "image.safetensors"):
        path = teach(bench, name, rows if name.startswith("class") else rows[loaded])
        method = f"kd+file:path={path}:kind={kind}"
        results = bench.run(method, work=f"work-{name}", val_fraction=val_fraction)
        assert not results.failed
        weights.add(learnt(bench, f"work-{name}"))
    assert len(weights) == 1
    other = teach(bench, "other.npy", rows[::-1])
    bench.run(f"kd+file:path={other}:kind={kind}", work="other", val_fraction=val_fraction)
    assert learnt(bench, "other") not in weights


def test_each_image_has_its_own_row_where_some_are_validated_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a student is given, image by image, against the rows of the data as loaded."""
    whole = load_dataset("tiny")
    parted = split_validation(whole, 0.25)
    assert parted.train.positions is not None
    rows = np.random.default_rng(1).normal(size=(40, 4))
    path, seen = teach(bench, "rows.npy", rows), []
    call = SOURCES.find("file").__call__

    def watched(source: Any, batch: Batch) -> Any:
        given = call(source, batch)
        seen.append((batch.indices, batch.labels, given.log_probs(1.0)))
        return given

    monkeypatch.setattr(SOURCES.find("file"), "__call__", watched)
    bench.run(f"dkd+file:path={path}:kind=scores", val_fraction=0.25)
    assert len(torch.cat([indices for indices, _, _ in seen]).unique()) == len(parted.train)
    for indices, labels, found in seen:
        places = parted.train.positions[indices.numpy()]
        np.testing.assert_array_equal(whole.train.labels[places], labels.numpy())
        expected = torch.log_softmax(torch.from_numpy(rows[places]), dim=1)
        torch.testing.assert_close(found.double(), expected)


def test_a_file_is_known_by_its_content(bench: Bench) -> None:
    path = teach(bench, "rows.npy", by_class())
    method = f"kd+file:path={path}:kind=scores"
    first = bench.run(f"{method},scratch").records
    digest = first[0].settings["method"]["source_content"]
    assert list(digest) == ["sha256"]
    assert all("source_content" not in r.settings["method"] for r in first[1:])
    assert first[0].method == method
    # The same content again trains nothing; another is another member.
    stamps = [p.stat().st_mtime_ns for p in sorted(bench.folder.rglob("record.json"))]
    teach(bench, "rows.npy", by_class())
    assert bench.run(f"{method},scratch").records == first
    assert [p.stat().st_mtime_ns for p in sorted(bench.folder.rglob("record.json"))] == stamps
    teach(bench, "rows.npy", by_class() + np.eye(4))
    second = bench.run(f"{method},scratch").records
    assert second[0].key != first[0].key
    assert second[0].settings["method"]["source_content"] != digest
    assert second[1] == first[1]


def test_a_file_that_changes_after_planning_is_noticed(bench: Bench) -> None:
    path = teach(bench, "rows.npy", by_class())
    source = f"file:path={path}:kind=scores"
    plan = api.plan(**bench.options(f"kd+{source},dkd+{source},scratch"))
    teach(bench, "rows.npy", by_class() * 2)
    results = api.execute(plan)
    assert [r.method for r in results.records] == ["scratch"]
    assert len(results.failed) == 2
    for fault in results.failed.values():
        assert str(fault) == (
            "source 'file': what it reads has changed since it was checked. Run the same command again."
        )
    plan = api.plan(**bench.options(f"kd+{source},scratch"))
    teach(bench, "rows.npy", by_class()[:3])
    (fault,) = api.execute(plan).failed.values()
    assert "must be of shape [4, 4]" in str(fault)


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_mistakes_in_files_end_the_command_before_training(
    suffix: str, bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bench.folder)
    teach(bench, "short" + suffix, by_class()[:3])
    teach(bench, "parted" + suffix, np.zeros((30, 4)))
    good = teach(bench, "good" + suffix, by_class())
    words = {
        f"kd+file:path=short{suffix}:kind=scores": "[4, 4] (a row per class) or [40, 4] (a row per training "
        "image of the data set as it was loaded), got [3, 4]",
        f"kd+file:path=parted{suffix}:kind=scores": "got [30, 4]",
        f"kd+file:path=good{suffix}:kind=probabilities": "a sum within 0.001 of 1",
        f"kd+file:path=nosuch{suffix}:kind=scores": f"no file {Path.cwd() / ('nosuch' + suffix)}",
        "kd+file:path=rows.csv:kind=scores": "ends in .npy or .safetensors",
    }
    command = bench.command(",".join([*words, f"dkd+file:path={good}:kind=scores"]), "--val-fraction", "0.25")
    assert cli.main(command) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == len(words)
    assert all(sum(message in line for line in lines) == 1 for message in words.values())
    for wrong, message in (
        ("kd+file", "option 'path' must be given: a text."),
        (f"kd+file:path={good}", "option 'kind' must be given: 'scores' or 'probabilities'."),
        (f"kd+file:kind=logits:path={good}", "kind must be 'scores' or 'probabilities', got 'logits'."),
        ("kd+file:kind=scores:path=a,scratch", "got 'a'. A path cannot have any of : , "),
        (f"at+file:path={good}:kind=scores", "takes no soft labels"),
        ("file", "'file' is a source of soft labels. Write kd+file."),
    ):
        assert cli.main(bench.command(wrong)) == 2
        assert message in capsys.readouterr().err
    assert not (bench.folder / "work").exists()


def test_a_benchmark_may_set_the_file(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench("sources = dict(file=dict(kind='scores'))")
    path = teach(bench, "rows.npy", by_class())
    assert [r.method for r in bench.run(f"kd+file:path={path}").records] == [f"kd+file:path={path}"]
    whole = make_bench(f"sources = dict(file=dict(kind='scores', path={path!r}))", "whole")
    (record,) = whole.run("kd+file").records
    assert record.method == "kd+file"
    assert record.settings["method"]["source_options"] == {"path": path, "kind": "scores"}
