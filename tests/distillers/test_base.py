import pytest
import torch

from kdzoo.checks import Count, Positive, UsageError
from kdzoo.distillers import Distiller, build_distiller
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, scores
from kdzoo.registry import DISTILLERS


class Reader(Distiller):
    """Reads stages and embedding."""

    needs = frozenset({"stages", "embedding"})

    def __init__(self, width: int = 1, *, rate: Positive = 2.0, count: Count = 3) -> None:
        super().__init__()
        self.given = (width, rate, count)


OUTPUT = ModelOutput(
    torch.zeros(2, 5),
    torch.ones(2, 4),
    (torch.zeros(2, 1, 4, 4), torch.ones(2, 2, 2, 2)),
    (torch.zeros(2, 1, 4, 4),),
)


def test_options_are_checked_before_the_body_and_kept():
    built = Reader(7, rate="3")
    assert built.given == (7, 3.0, 3)
    assert built.options == {"rate": 3.0, "count": 3}
    assert list(Reader().options) == ["rate", "count"]
    with pytest.raises(UsageError) as caught:
        Reader(rate=0, cuont=1)
    assert str(caught.value).splitlines() == [
        "Reader: there is no option 'cuont'. Did you mean 'count'?",
        "Reader: rate must be a number in (0, inf), got 0.",
    ]


def test_a_wrong_need_is_refused_where_it_is_declared():
    with pytest.raises(UsageError, match=r"Wrong: needs must be of .*'stages'.*, got \['logits'\]\."):
        type("Wrong", (Distiller,), {"needs": frozenset({"logits"})})


def test_what_takes_a_teacher():
    assert Reader.needs_teacher()
    for needs, teacher in [((), False), (("soft_labels", "indices"), False), (("classifier",), True)]:
        assert type("Some", (Distiller,), {"needs": frozenset(needs)}).needs_teacher() == teacher


def test_a_digest_holds_the_needed_fields_and_no_others():
    digest = Reader().digest(OUTPUT)
    assert set(digest) == {"embedding", "stages.0", "stages.1"}
    assert digest["embedding"] is OUTPUT.embedding
    assert digest["stages.1"] is OUTPUT.stages[1]
    assert build_distiller("kd", None).digest(OUTPUT) == {}
    assert set(Reader().digest(OUTPUT._replace(embedding=None))) == {"stages.0", "stages.1"}


def test_scratch_adds_nothing():
    scratch = build_distiller("scratch", None)
    batch = Batch(torch.empty(2, 0), torch.tensor([0, 1]), None)
    assert scratch(OUTPUT, Guide(None, {}), batch, Progress(0, 1, 0, 1)) == {}
    assert scratch.label_weight(Progress(0, 1, 0, 1)) == 1
    assert not scratch.needs


def test_an_unknown_distiller_is_answered_with_the_nearest(setting):
    with pytest.raises(UsageError, match=r"there is no distiller 'dkdd'\. Did you mean .*'dkd'"):
        build_distiller("dkdd", setting)


@pytest.mark.parametrize("name", DISTILLERS.names())
def test_every_distiller_declares_itself(name, setting):
    cls = DISTILLERS.find(name)
    assert cls.paper
    assert cls.version >= 1
    assert cls.digest_scope in ("sample", "batch")
    built = build_distiller(name, setting)
    assert set(cls.digest_options) <= set(built.options)
    assert built.options.keys() >= cls.scaled_options(40).keys()
    network = torch.nn.Linear(1, 1)
    assert built.deployed(network) is network or "deployed" in cls.__dict__


@pytest.mark.parametrize(
    "name", [n for n in DISTILLERS.names() if DISTILLERS.find(n).needs == {"soft_labels"}]
)
def test_a_logit_method_gives_finite_scalars_and_writes_into_nothing(name, setting, logits, step):
    student, teacher, labels = logits(6, 5, 0).requires_grad_(), logits(6, 5, 1), torch.arange(6) % 5
    soft = scores(teacher)
    versions = [t._version for t in (student, teacher, labels)]
    terms = step(build_distiller(name, setting), student, soft, labels)
    assert terms
    for term in terms.values():
        assert term.ndim == 0
        assert term.isfinite()
        assert term.requires_grad
    assert versions == [t._version for t in (student, teacher, labels)]
    assert not {"label", "loss"} & set(terms)
