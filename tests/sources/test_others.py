import numpy as np
import pytest
import torch

from kdzoo.checks import Count, UsageError, options_of
from kdzoo.outputs import Batch
from kdzoo.registry import DISTILLERS, SOURCES
from kdzoo.sources import Source, build_source

LABELS = [0, 0, 1, 1, 2, 2, 3, 3]
BATCH = Batch(torch.arange(30.0).reshape(5, 1, 2, 3), torch.tensor([0, 1, 3, 2, 0]), None)


def test_the_teachers_scores_are_softened(workshop):
    source = build_source("teacher")
    source.fit(workshop(LABELS))
    logits = BATCH.images.flatten(1)[:, :4]
    for temperature in (1.0, 4.0):
        torch.testing.assert_close(
            source(BATCH).log_probs(temperature), torch.log_softmax(logits / temperature, dim=1)
        )
    assert "teacher" in source.needs


def test_uniform_says_nothing_about_any_class(workshop):
    source = build_source("uniform")
    source.fit(workshop(LABELS))
    for temperature in (1.0, 20.0):
        assert source(BATCH).log_probs(temperature).exp().tolist() == [[0.25] * 4] * 5
    assert not source.needs


class Declared(Source):
    """A source with options."""

    def __init__(self, *, count: Count = 3) -> None:
        self.count = count


def test_options_are_checked_before_the_body_and_kept():
    assert Declared(count="5").count == 5
    assert Declared().options == {"count": 3}
    with pytest.raises(UsageError, match=r"^Declared: count must be an integer in \[1, inf\), got 0\.$"):
        Declared(count=0)


def test_unknown_sources_and_options_are_answered_with_the_nearest():
    with pytest.raises(UsageError, match=r"there is no source 'refakd'\. Did you mean 'reffakd'"):
        build_source("refakd")
    with pytest.raises(UsageError, match=r"^reffakd: there is no option 'gama'\. Did you mean 'gamma'\?$"):
        build_source("reffakd", {"gama": 1})


@pytest.mark.parametrize("name", SOURCES.names())
def test_every_source_declares_itself_and_gives_distributions(name, workshop, tmp_path):
    cls = SOURCES.find(name)
    assert cls.paper
    assert cls.version >= 1
    assert cls.shorthand in ("", *DISTILLERS.names())
    assert cls.follows in ("", *SOURCES.names())
    required = {"path": str(tmp_path / "rows.npy"), "kind": "scores"}
    np.save(required["path"], np.arange(16.0).reshape(4, 4))
    required |= {"teachers": "teacher/student"}
    given = {o: required[o] for o, option in options_of(cls).items() if option.required}
    source = build_source(name, {"reffakd": 0.25, "random_cae": 0.75} if name == "mixture" else given)
    assert source.needs <= {"teacher", "indices"}
    assert set(source.train_options) <= set(source.options)
    shop = workshop(LABELS)
    source.fit(shop)
    assert set(shop.losses) == set(source.trains)
    assert set(shop.judges) == set(source.classifiers)
    assert {section for section, _ in shop.built} == set(source.builds)
    rows = source(BATCH).log_probs(4.0)
    assert rows.shape == (5, 4)
    torch.testing.assert_close(rows.exp().sum(dim=1), torch.ones(5))
    # Ready again after a resumed start, and the same.
    source.fit(workshop(LABELS))
    assert torch.equal(source(BATCH).log_probs(4.0), rows)
