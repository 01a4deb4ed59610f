"""Sources that are made of others, or train networks on the labels, in whole runs of the tiny benchmark."""

from collections.abc import Callable
from typing import Any

import pytest
from tinyzoo import EPOCHS, STEPS, Bench

from kdzoo import api, cli
from kdzoo.checks import UsageError
from kdzoo.training import artifacts
from kdzoo.training.networks import SharedTeacher

MIXED = "dkd+mixture:reffakd=0.5:teacher=0.5"
SEVERAL = "kd+ensemble:teachers=resnet14/teacher"
METHODS = f"kd,{MIXED},{SEVERAL},reffakd,kd+tfkd_self"


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the artifacts that were trained."""
    found: list[str] = []
    train = artifacts.Foundry._train

    def counted(foundry: Any, plan: Any, member: Any) -> Any:
        found.append(plan.name)
        return train(foundry, plan, member)

    monkeypatch.setattr(artifacts.Foundry, "_train", counted)
    return found


def test_artifacts_are_shared_with_who_uses_them_alone(bench: Bench, trained: list[str]) -> None:
    results = bench.run(METHODS)
    assert not results.failed
    assert sorted(trained) == ["autoencoder", "resnet14", "student", "teacher"]
    used = {r.method: {name: a["key"] for name, a in r.artifacts.items()} for r in results.records}
    assert used[MIXED] == {**used["kd"], **used["reffakd"]}
    assert used[SEVERAL].keys() == {"teacher", "resnet14"}
    assert used[SEVERAL]["teacher"] == used["kd"]["teacher"]
    assert used["kd+tfkd_self"].keys() == {"student"}
    # One pass a step of the teacher that three of them read.
    assert results.records[0].timing["teacher_passes"] == EPOCHS * STEPS
    judged = {r.method: r for r in results.records}["kd+tfkd_self"].artifacts["student"]
    assert judged["network"] == "tiny_student"
    assert 0 <= judged["score"]["top1"] <= 100
    assert not bench.run(METHODS).failed
    assert len(trained) == 4


def test_members_are_the_same_alone_and_in_a_cohort(bench: Bench) -> None:
    assert not bench.run(METHODS, seeds=2).failed
    together = bench.contents()
    for method in (MIXED, SEVERAL, "kd+tfkd_self"):
        bench.run(method, work="alone")
        assert bench.contents("alone")[method, 0] == together[method, 0]
    assert together["kd+tfkd_self", 0] != together["kd+tfkd_self", 1]


def test_no_teacher_is_built_where_none_is_mixed(make_bench: Callable[..., Bench]) -> None:
    free = make_bench('teacher = dict(network=dict(type="untouchable"))')
    methods = "dkd+mixture:reffakd=0.5:tfkd_self=0.5,kd+ensemble:teachers=resnet8/resnet14"
    assert not free.run(methods, epochs=1).failed


def test_a_section_of_ones_own_is_another_teacher(bench: Bench) -> None:
    (record,) = bench.run(
        "kd+ensemble:teachers=other/teacher", epochs=1,
        cfg_options={"other.network.type": "resnet8", "other.recipe.epochs": 2},
    ).records  # fmt: skip
    assert {a["network"] for a in record.artifacts.values()} == {"resnet8"}
    assert record.artifacts["other"]["settings"]["epochs"] == 2
    assert record.artifacts["other"]["score"] != record.artifacts["teacher"]["score"]


def test_a_classifier_runs_once_for_all_sources_that_read_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[SharedTeacher] = []
    begin = SharedTeacher.__init__

    def counted(self: SharedTeacher, *given: Any, **options: Any) -> None:
        made.append(self)
        begin(self, *given, **options)

    monkeypatch.setattr(SharedTeacher, "__init__", counted)
    several = "kd+ensemble:teachers=resnet8/student"
    mixed = "kd+mixture:tfkd_self=0.5:uniform=0.5"
    results = bench.run(f"kd+tfkd_self,{mixed},{several},{several}:mean=scores", epochs=1)
    assert not results.failed
    assert [teacher.passes for teacher in made] == [STEPS, STEPS]
    assert all("teacher_pass" in record.settings["method"] for record in results.records)


def test_what_a_config_sets_by_dotted_names_holds(bench: Bench) -> None:
    options = {
        "sources.mixture.uniform": 0.75, "sources.mixture.permuted": 0.25,
        "sources.mixture.permuted.gamma": 3.0, "methods.at~kd.kd.alpha": 0.5,
    }  # fmt: skip
    plan = api.plan(**bench.options("kd+mixture,at~kd", cfg_options=options))
    mixed, summed = plan.methods
    assert (mixed.name, mixed.source_options["permuted.gamma"]) == ("kd+mixture", 3.0)
    assert summed.options["kd.alpha"] == 0.5


def test_teachers_that_would_stay_random_are_refused(bench: Bench) -> None:
    methods = "kd+ensemble:teachers=resnet14/resnet8"
    with pytest.raises(UsageError, match="resnet14 would stay untrained, as the teacher takes 0 epochs"):
        api.plan(**bench.options(methods, teacher="torchvision:resnet18:pretrained=true", teacher_epochs=0))


def test_all_mistakes_are_told_at_once(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    methods = "kd+ensemble:teachers=nothing/teacher,ofd"
    assert cli.main(bench.command(methods, "--teacher", "lenet5")) == 2
    told = capsys.readouterr().err
    assert "there is no section or model 'nothing'" in told
    assert "ofd: the teacher must have a batch norm" in told


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        ("kd+ensemble:teachers=teacher/resnett8", "there is no section or model 'resnett8'. Did you mean"),
        (
            "kd+ensemble:teachers=teacher/autoencoder",
            "its autoencoder must be a classifier with 4 logits, got 'autoencoder'. Choose another network.",
        ),
        (
            "kd+mixture:reffakd=0.5:permuted=0.5:permuted.target=pixels",
            "its sources use autoencoder trained in different ways. Give them the same options.",
        ),
        (
            "kd:standardize=true+mixture:teacher=0.5:uniform=0.5",
            "it compares scores, and source 'mixture' gives probabilities.",
        ),
    ],
)
def test_what_cannot_be_is_told_before_training(
    bench: Bench, capsys: pytest.CaptureFixture[str], trained: list[str], methods: str, words: str
) -> None:
    assert cli.main(bench.command(methods)) == 2
    told = capsys.readouterr().err
    assert words in told
    assert len(told.splitlines()) == 1
    assert not trained
