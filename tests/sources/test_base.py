"""What a source of one's own gives is looked at before anybody trains on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tinyzoo import Bench

from kdzoo import cli
from kdzoo.checks import FormError
from kdzoo.outputs import Batch, probabilities, scores
from kdzoo.registry import SOURCES
from kdzoo.sources.base import TOLERANCE, ClassSource, Source, check_soft_labels

EVEN = torch.full((3, 3), 1 / 3)


class Fixed(ClassSource):
    """Gives what the test says."""

    given: Any = None

    def rows(self, workshop):
        return self.given


def made(given: Any, workshop: Callable[..., Any]) -> torch.Tensor:
    source = type("Mine", (Fixed,), {"given": given})()
    source.fit(workshop([0, 1, 2]))
    return source.class_rows


PROBABILITIES = (
    r"^Mine\.rows must return probabilities, finite, not negative, and 1 in sum for each row, got "
)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.eye(3) + 1, PROBABILITIES + r"a sum of 4 in row 0\. Divide each row by its sum; of scores"),
        (EVEN * (1 + 2 * TOLERANCE), PROBABILITIES + r"a sum of 1\.0002 in row 0\."),
        (torch.eye(3) * 2 - EVEN, PROBABILITIES + r"-0\.333333 in row 0, column 1\."),
        (EVEN.log(), PROBABILITIES + r"-1\.09861 in row 0, column 0\."),
        (EVEN / torch.tensor([[1.0], [1.0], [0.0]]), PROBABILITIES + r"inf in row 2, column 0\."),
        (EVEN * torch.nan, PROBABILITIES + "nan in row 0, column 0"),
        (torch.eye(3).double() * 1e300, PROBABILITIES + "inf in row 0, column 0"),
        (torch.eye(4), r"^Mine\.rows must return floating-point \[3, 3\], got torch\.float32 \[4, 4\]\.$"),
        (torch.eye(3)[0], r"floating-point \[3, 3\], got torch\.float32 \[3\]\.$"),
        (torch.eye(3, dtype=torch.int64), r"floating-point \[3, 3\], got torch\.int64 \[3, 3\]\.$"),
        (np.eye(3, dtype=np.int64), r"floating-point \[3, 3\], got an ndarray of int64\.$"),
        (np.ones((3, 3)), PROBABILITIES + "a sum of 3 in row 0"),
        ([[1.0]], r"floating-point \[3, 3\], got a list\.$"),
        (None, r"floating-point \[3, 3\], got None\.$"),
    ],
    ids=str,
)
def test_rows_that_are_no_distributions_are_refused(given: Any, said: str, workshop: Any) -> None:
    with pytest.raises(FormError, match=said):
        made(given, workshop)


@pytest.mark.parametrize(
    "given",
    [
        EVEN, EVEN.double(), torch.eye(3), EVEN * (1 + TOLERANCE / 2), EVEN.numpy(), EVEN.double().numpy(),
        EVEN.numpy()[::-1], np.full((3, 3), 1 / 3, np.longdouble),
    ],
    ids=str,
)  # fmt: skip
def test_rows_are_kept_in_float32_whoever_made_them(given: Any, workshop: Any) -> None:
    rows = made(given, workshop)
    assert rows.dtype == torch.float32
    np.testing.assert_array_equal(rows.numpy(), np.asarray(given, np.float32))


class Bare:
    """Stands where soft labels are expected."""

    def __init__(self, log_probs: Any) -> None:
        self.log_probs = lambda temperature: log_probs


@pytest.mark.parametrize(
    ("soft_labels", "said"),
    [
        (EVEN, r"^Mine must return soft labels, got a Tensor\. Return kdzoo\.probabilities\(\.\.\.\) or "),
        (None, "must return soft labels, got None"),
        (Bare(None), r"Mine's soft labels must be floating-point \[3, 3\], got None\.$"),
        (probabilities(EVEN[:2]), r"floating-point \[3, 3\], got torch\.float32 \[2, 3\]\.$"),
        (scores(torch.zeros(3, 4)), r"floating-point \[3, 3\], got torch\.float32 \[3, 4\]\.$"),
        (probabilities(torch.eye(3) + 1), "1 in sum for each row, got a sum of 4 in row 0"),
        (probabilities(torch.eye(3) * 2 - EVEN), "finite, not negative, .* got nan in row 0, column 1"),
    ],
)
def test_soft_labels_that_are_no_distributions_are_refused(soft_labels: Any, said: str) -> None:
    with pytest.raises(FormError, match=said):
        check_soft_labels(type("Mine", (Source,), {})(), soft_labels, (3, 3))
    for good in (probabilities(EVEN), probabilities(torch.eye(3)), scores(torch.randn(3, 3) * 1e4)):
        check_soft_labels(Source(), good, (3, 3))


class Sampled(Source):
    """A number of its own for each sample, and a fault where the test says so."""

    factor: Callable[[Batch], float] = staticmethod(lambda batch: 1.0)

    def __call__(self, batch):
        values = torch.rand(len(batch.labels), 4)
        return probabilities(values / values.sum(dim=1, keepdim=True) * type(self).factor(batch))


@pytest.fixture
def own(zoo: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, type[Source]], None]:
    def register(name: str, cls: type[Source]) -> None:
        SOURCES.names()
        monkeypatch.setitem(SOURCES.module_dict, name, cls)

    return register


@pytest.mark.parametrize(
    ("cls", "said"),
    [
        (type("Mine", (Fixed,), {"given": torch.eye(4) + 1}), "Mine.rows must return probabilities"),
        (type("Mine", (Sampled,), {"factor": lambda batch: 2.0}), "Mine's soft labels must be probabilities"),
    ],
)
def test_who_learns_from_them_ends_with_one_line_before_training_and_alone(
    bench: Bench, own: Any, capsys: pytest.CaptureFixture[str], cls: type[Source], said: str
) -> None:
    own("mine", cls)
    assert cli.main(bench.command("kd+mine,scratch,dkd+mine")) == 1
    told = capsys.readouterr().err
    assert told.count(said) == 2
    assert "Traceback" not in told
    assert [method for method, _ in bench.contents()] == ["scratch"]
    bench.run("scratch", work="alone")
    assert bench.contents() == bench.contents("alone")


def test_no_later_step_of_a_start_looks_at_them(
    bench: Bench, own: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking waits for the device; and numbers are the same whether or not somebody looked."""
    own("mine", Sampled)
    looked = []

    def counted(source: Source, soft_labels: Any, shape: tuple[int, int]) -> None:
        looked.append(type(source).__name__)
        check_soft_labels(source, soft_labels, shape)

    monkeypatch.setattr("kdzoo.training.cohort.check_soft_labels", counted)
    assert not bench.run("kd+mine,dkd+mine,scratch,kd+uniform").failed
    assert looked == ["Sampled", "Uniform"]
    monkeypatch.setattr("kdzoo.training.cohort.check_soft_labels", lambda *given: None)
    bench.run("kd+mine,dkd+mine,scratch,kd+uniform", work="unseen")
    assert bench.contents() == bench.contents("unseen")
