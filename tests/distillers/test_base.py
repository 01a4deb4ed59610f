import pytest
import torch

from kdzoo.checks import Count, FormError, Positive, UsageError
from kdzoo.distillers import Distiller, build_distiller
from kdzoo.functional.divergences import cross_entropy
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, scores


class Reader(Distiller):
    """Reads stages and embedding."""

    needs = frozenset({"stages", "embedding"})

    def __init__(self, width: int, *, rate: Positive = 2.0, count: Count = 3) -> None:
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
    assert list(Reader(1).options) == ["rate", "count"]
    with pytest.raises(UsageError) as caught:
        Reader(1, rate=0, cuont=1)
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


def test_a_digest_holds_the_needed_fields_and_no_others(setting):
    digest = Reader(1).digest(OUTPUT)
    assert set(digest) == {"embedding", "stages.0", "stages.1"}
    assert digest["embedding"] is OUTPUT.embedding
    assert digest["stages.1"] is OUTPUT.stages[1]
    assert build_distiller("kd", setting).digest(OUTPUT) == {}
    assert set(Reader(1).digest(OUTPUT._replace(embedding=None))) == {"stages.0", "stages.1"}


def test_scratch_adds_nothing(setting):
    scratch = build_distiller("scratch", setting)
    batch = Batch(torch.empty(2, 0), torch.tensor([0, 1]), None)
    assert scratch(OUTPUT, Guide(None, {}), batch, Progress(0, 1, 0, 1)) == {}
    assert scratch.label_weight(Progress(0, 1, 0, 1)) == 1
    assert not scratch.needs


def test_an_unknown_distiller_is_answered_with_the_nearest(setting):
    with pytest.raises(UsageError, match=r"there is no distiller 'dkdd'\. Did you mean .*'dkd'"):
        build_distiller("dkdd", setting)


class Looks(Distiller):
    """Keeps what it is given, and adds the embedding's mean."""

    needs = frozenset({"embedding", "soft_labels"})

    def label_weight(self, progress: Progress) -> float:
        return 0.5 if progress.epoch else 0.0

    def forward(self, student, guide, batch, progress):
        self.seen = student, guide, batch
        return {"looks": student.embedding.mean()}


def test_a_method_sees_what_it_declares_and_the_member_adds_the_labels(logits):
    method, labels = Looks(), torch.tensor([0, 3])
    student = OUTPUT._replace(logits=logits(2, 5, 0))
    expected = {"label": 0.5 * cross_entropy(student.logits, labels).mean(), "looks": torch.tensor(1.0)}
    batch = Batch(None, labels, None)
    guide = Guide(scores(OUTPUT.logits), {})
    assert list(method.terms(student, guide, batch, Progress(0, 2, 0, 1))) == ["looks"]
    terms = method.terms(student, guide, batch, Progress(1, 2, 0, 1))
    assert list(terms) == ["label", "looks"]
    torch.testing.assert_close(terms, expected)
    seen = method.seen[0]
    assert (seen.logits is student.logits, seen.stages, seen.preactivations) == (True, None, None)
    whole = method.loss(student, labels, teacher=OUTPUT, epoch=1, epochs=2)
    torch.testing.assert_close(whole, sum(expected.values()))
    # What it does not declare is not handed to it here, either.
    assert dict(method.seen[1].teacher).keys() == {"embedding"}
    assert method.seen[2].indices is None


def test_what_a_loss_misses_is_named(logits):
    labels = torch.tensor([0, 3])
    with pytest.raises(UsageError, match=r"^Looks: it needs soft labels\. Give teacher=.*, or soft_labels="):
        Looks().loss(OUTPUT, labels, epoch=0, epochs=1)
    with pytest.raises(UsageError, match=r"^Looks: it needs the teacher's output\. Give teacher"):
        Looks().loss(OUTPUT, labels, soft_labels=scores(logits(2, 5, 1)), epoch=0, epochs=1)


def test_networks_that_do_not_return_what_a_method_needs_are_refused(setting):
    with pytest.raises(UsageError, match=r"^pkt: it needs a teacher, got none\."):
        build_distiller("pkt", setting._replace(teacher=None))
    bare = setting.teacher._replace(stages=None)
    with pytest.raises(UsageError) as caught:
        build_distiller("at", setting._replace(student=bare, teacher=bare))
    assert [line.split(", which")[0] for line in str(caught.value).splitlines()] == [
        "at: it needs the student's stages", "at: it needs the teacher's stages"
    ]  # fmt: skip


def test_a_term_must_not_take_a_members_name(logits):
    class Greedy(Distiller):
        def forward(self, student, guide, batch, progress):
            return {"loss": student.logits.mean()}

    with pytest.raises(
        FormError, match=r"^Greedy\.forward: a term's name must be .*, got 'loss'\. Give it another"
    ):
        Greedy().loss(logits(2, 5, 0), torch.tensor([0, 3]), epoch=0, epochs=1)


def a_step(terms, weight=1.0):
    class Odd(Distiller):
        def label_weight(self, progress):
            return weight

        def forward(self, student, guide, batch, progress):
            return terms

    return Odd().loss(torch.zeros(2, 5), torch.tensor([0, 3]), epoch=0, epochs=1)


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        (torch.ones(()), 'must return a dict of named scalar terms, got a Tensor. Return {"odd": loss}.'),
        (None, "must return a dict of named scalar terms, got None."),
        ([torch.ones(())], "must return a dict of named scalar terms, got a list."),
        (
            {"a": torch.ones(3)},
            "term 'a' must be a floating-point scalar tensor, got torch.float32 [3]. Reduce",
        ),
        (
            {"a": torch.ones((), dtype=torch.int64)},
            "must be a floating-point scalar tensor, got torch.int64 []",
        ),
        ({"a": 0.5}, "term 'a' must be a scalar tensor, got 0.5. Compute it with torch alone"),
        ({"a": None}, "term 'a' must be a scalar tensor, got None."),
        ({3: torch.ones(())}, "a term's name must be a text other than"),
    ],
)
def test_terms_of_another_form_are_answered_in_a_sentence(terms, said):
    with pytest.raises(FormError) as caught:
        a_step(terms)
    assert str(caught.value).startswith("Odd.forward")
    assert said in str(caught.value)


def test_a_step_without_any_term_is_answered_in_a_sentence():
    with pytest.raises(
        FormError, match="Odd: there is nothing to train for in epoch 0: no term, and label_w"
    ):
        a_step({}, weight=0.0)
    assert a_step({}).item() > 0


class Curious(Distiller):
    """Keeps the setting that it is built for."""

    @classmethod
    def for_setting(cls, setting, **options):
        built = cls(**options)
        built.seen = setting
        return built


class Reading(Curious):
    """Reads the teacher's embedding."""

    needs = frozenset({"embedding"})


class Heading(Curious):
    """Reads the teacher's classifier."""

    needs = frozenset({"classifier"})


class Before(Curious):
    """Reads stages before their activation."""

    needs = frozenset({"preactivations"})


def test_a_method_is_not_shown_the_teacher_that_others_brought(setting):
    norms = ((torch.ones(2), torch.zeros(2)),)
    stages = setting.teacher.stages
    whole = setting._replace(
        teacher_head=torch.nn.Linear(4, 5), teacher_norms=norms,
        student=setting.student._replace(preactivations=stages),
        teacher=setting.teacher._replace(preactivations=stages),
    )  # fmt: skip
    plain, reading, heading, before = (
        build_distiller(cls, whole).seen for cls in (Curious, Reading, Heading, Before)
    )
    assert plain.teacher is None
    assert plain.teacher_head is None
    assert reading.teacher is whole.teacher
    assert reading.teacher_head is None
    assert heading.teacher is whole.teacher
    assert heading.teacher_head is whole.teacher_head
    assert (
        before.teacher_head is plain.teacher_norms is reading.teacher_norms is heading.teacher_norms is None
    )
    assert before.teacher_norms is norms


@pytest.mark.parametrize("needs", [{"embedding"}, ["embedding"], ("embedding",)])
def test_needs_may_be_any_collection_of_names_but_a_text(needs):
    assert type("Mine", (Distiller,), {"needs": needs}).needs == frozenset({"embedding"})
    with pytest.raises(UsageError, match="needs must be a set of names, got the text 'embedding'"):
        type("Mine", (Distiller,), {"needs": "embedding"})


def test_a_digest_says_what_it_has():
    with pytest.raises(KeyError, match=r"no 'stages'; it has 'embedding', 'stages\.0', 'stages\.1'"):
        Reader(1).detached_digest(OUTPUT)["stages"]


@pytest.mark.parametrize("kept", [1.5, [], {"kept": 1.5}, {"kept": None}, {1: torch.ones(2)}])
def test_a_digest_of_anything_but_named_tensors_is_told(kept):
    class Odd(Distiller):
        needs = frozenset({"embedding"})

        def digest(self, teacher):
            return kept

    with pytest.raises(FormError, match=r"Odd\.digest must return a dict of named tensors, got"):
        Odd().detached_digest(ModelOutput(torch.ones(2, 3), torch.ones(2, 4)))


def test_all_that_a_network_does_not_return_is_told_in_one_sentence(setting):
    class Both(Distiller):
        needs = frozenset({"stages", "embedding"})

    bare = setting.student._replace(embedding=None, stages=None)
    with pytest.raises(UsageError) as caught:
        build_distiller(Both, setting._replace(student=bare, teacher=bare._replace(stages=((2, 3, 3),))))
    assert str(caught.value).splitlines() == [
        "Both: it needs the student's embedding and stages, which this student does not return. Choose "
        "another student, or a method that does not need its embedding and stages.",
        "Both: it needs the teacher's embedding, which this teacher does not return. Choose another "
        "teacher, or a method that does not need its embedding.",
    ]
