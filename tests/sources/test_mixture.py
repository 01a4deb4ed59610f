"""Weighted means of other sources."""

import numpy as np
import pytest
import torch

from kdzoo.checks import UsageError
from kdzoo.outputs import Batch
from kdzoo.sources import build_source

LABELS = [0, 0, 1, 1, 2, 2, 3, 3]
BATCH = Batch(torch.arange(30.0).reshape(5, 1, 2, 3) / 7, torch.tensor([0, 1, 3, 2, 0]), torch.arange(5))
HALF = {"teacher": 0.5, "reffakd": 0.5}


def ready(workshop, name, **options):
    source = build_source(name, options)
    source.fit(workshop(LABELS))
    return source


@pytest.mark.parametrize("share", [0.5, 0.125])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_each_part_is_softened_in_its_own_way_and_weighed(workshop, share, temperature):
    source = ready(workshop, "mixture", teacher=share, reffakd=1 - share)
    teacher, reffakd = (
        ready(workshop, n)(BATCH).log_probs(temperature).exp() for n in ("teacher", "reffakd")
    )
    found = source(BATCH).log_probs(temperature).exp()
    torch.testing.assert_close(found, share * teacher + (1 - share) * reffakd)
    assert not torch.allclose(teacher, reffakd)


def test_parts_have_their_own_options(workshop):
    source = ready(workshop, "mixture", **HALF, **{"reffakd.gamma": 3.0})
    part = ready(workshop, "reffakd", gamma=3.0)(BATCH).log_probs(1.0).exp()
    teacher = ready(workshop, "teacher")(BATCH).log_probs(1.0).exp()
    torch.testing.assert_close(source(BATCH).log_probs(1.0).exp(), (teacher + part) / 2)


def test_it_declares_what_its_parts_declare(tmp_path):
    half = build_source("mixture", HALF)
    assert (half.needs, half.teacher_fields, half.trains) == ({"teacher"}, {"logits"}, ("autoencoder",))
    assert half.train_options == ("reffakd.target",)
    free = build_source("mixture", {"uniform": 0.5, "random_cae": 0.25, "tfkd_self": 0.25})
    assert (free.needs, free.trains) == (frozenset(), ())
    assert (free.builds, free.classifiers) == (("autoencoder",), ("student",))
    # A teacher's class means may read anything of it before training.
    assert build_source("mixture", {"teacher": 0.5, "teacher_mean": 0.5}).teacher_fields == {"logits"}
    np.save(tmp_path / "rows.npy", np.eye(4))
    file = {"file": 0.5, "file.path": str(tmp_path / "rows.npy"), "file.kind": "probabilities"}
    mixed = build_source("mixture", {"teacher": 0.5, **file})
    assert mixed.needs == {"teacher", "indices"}
    assert list(mixed.content()) == ["file.sha256"]
    assert not half.gives_scores


def test_only_its_own_options_are_kept():
    """Those of sources that are added later change no record's key."""
    own = build_source("reffakd").options
    assert build_source("mixture", HALF).options == {
        "reffakd": 0.5, "teacher": 0.5, **{f"reffakd.{name}": value for name, value in own.items()},
    }  # fmt: skip


def test_versions_rise_with_those_of_the_parts(monkeypatch):
    before = build_source("mixture", HALF).version
    monkeypatch.setattr(type(build_source("teacher")), "version", 5)
    assert build_source("mixture", HALF).version == before + 4


def test_thirds_may_be_written_out():
    thirds = dict.fromkeys(("teacher", "reffakd", "uniform"), 0.3333)
    assert sum(build_source("mixture", thirds)._weights) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "its weights must be those of two sources or more, 1 in sum, such as .*, got ''"),
        ({"teacher": 1}, "its weights must be those of two sources or more"),
        ({"teacher": 0.5, "reffakd": 0.4}, "its weights must be .*, got 'reffakd=0.4:teacher=0.5'"),
        ({"teacher": 1.5, "reffakd": -0.5}, "reffakd must be a number in"),
        ({**HALF, "uniform.x": 1}, "there is no option 'uniform.x'"),
        ({**HALF, "permuted.gamma": 1}, "permuted.gamma is an option of a source without weight"),
        ({"teacher": 0.5, "file": 0.5}, "option 'file.path' must be given: a text"),
        ({"teacher": 0.5, "ensemble": 0.5, "ensemble.teachers": "a"}, "teachers must be two names or more"),
        ({"mixture": 0.5, "teacher": 0.5}, "there is no option 'mixture'"),
    ],
)
def test_what_is_no_mixture_is_refused(options, words):
    with pytest.raises(UsageError, match=f": {words}"):
        build_source("mixture", options)
