import random
from unittest import SkipTest

import numpy as np
import pytest
import torch

from kdzoo.checks import FormError, Positive, UsageError, options_of
from kdzoo.distillers import Distiller
from kdzoo.distillers.kd import KD
from kdzoo.models import build_model
from kdzoo.sources import Source
from kdzoo.sources.controls import Uniform
from kdzoo.testing import (
    ContractError,
    NetworkPair,
    cases,
    check_distiller,
    check_model,
    check_source,
    distiller_checks,
    make_case,
    network_pairs,
    source_checks,
)
from kdzoo.testing.contract import Check, Unusable, Watch, bind, run_all
from kdzoo.testing.distillers import RULES


def kept(subject):
    pass


def broken(subject):
    raise ContractError("it is broken. Mend it.")


def broken_too(subject):
    raise ContractError("it is broken. Mend it.")


def raising(subject):
    raise ZeroDivisionError("division by zero")


class Unregistered(Distiller):
    """A method that nobody registered.

    Args:
        weight: of its term.
    """

    paper = "none: a test"

    def __init__(self, *, weight: Positive = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, student, guide, batch, progress):
        return {"small": self.weight * student.logits.square().mean()}


class Required(Unregistered):
    """A method that must be told its weight.

    Args:
        weight: of its term.
    """

    def __init__(self, *, weight: Positive) -> None:
        super().__init__(weight=weight)


class Bad(Unregistered):
    """Turns against the labels."""

    def label_weight(self, progress):
        return -1.0


# One rule.


def test_a_check_is_called_as_its_rule_and_runs_it():
    check = bind([kept], "a subject", None)[0]
    assert str(check) == check.name == "kept"
    assert (check.subject, check.reason) == ("a subject", "")
    check()
    with pytest.raises(ContractError, match=r"^it is broken\. Mend it\.$"):
        bind([broken], None, None)[0]()


def test_whatever_a_rule_raises_is_a_fault_with_its_cause():
    with pytest.raises(ContractError, match=r"^it raises ZeroDivisionError: division by zero$") as caught:
        bind([raising], None, None)[0]()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    # For pytest a failure like any other.
    assert isinstance(caught.value, AssertionError)


def test_generators_and_settings_stand_where_they_stood():
    def spoiling(subject):
        for draw in (random.random, np.random.rand, torch.rand):
            draw() if draw is not torch.rand else draw(1)
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.set_grad_enabled(False)
        raise ContractError("spoilt")

    def state():
        settings = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), settings

    before = state()
    with pytest.raises(ContractError, match="spoilt"):
        bind([spoiling], None, None)[0]()
    assert state() == before


def test_whole_contracts_leave_the_callers_generators_alone():
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    check_distiller(Unregistered, pairs=())
    check_source("uniform")
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


def test_rules_see_gradients_even_where_the_caller_switched_them_off():
    with torch.no_grad():
        check_distiller(Unregistered, pairs=())
        assert not torch.is_grad_enabled()


# All rules.


def test_all_faults_are_told_at_once_and_the_same_one_once():
    checks = bind([kept, broken, raising, broken_too], None, None)
    with pytest.raises(ContractError) as caught:
        run_all("it", checks)
    assert str(caught.value).splitlines() == [
        "it: 3 of 4 rules of its contract are not kept",
        "- broken, broken_too: it is broken. Mend it.",
        "- raising: it raises ZeroDivisionError: division by zero",
    ]
    assert isinstance(caught.value.__cause__, ContractError)


def test_nothing_is_said_where_all_is_well():
    run_all("it", bind([kept], None, None))


@pytest.mark.parametrize("fault", [FormError, Unusable])
def test_what_cannot_be_used_is_told_once_and_ends_the_check(fault):
    asked = []

    def unusable(subject):
        raise fault("it cannot be used.")

    def later(subject):
        asked.append(subject)

    with pytest.raises(ContractError, match=r"^it: it cannot be used\.$"):
        run_all("it", bind([broken, unusable, later], None, None))
    first, second, third = bind([broken, unusable, later], None, None)
    for check, kind, words in (
        (first, ContractError, "^it is broken"),
        (second, ContractError, r"^it cannot be used\.$"),
        (third, SkipTest, r"^not run: it cannot be used\.$"),
        # Asked again, it does not pass for skipped.
        (second, ContractError, r"^it cannot be used\.$"),
    ):
        with pytest.raises(kind, match=words):
            check()
    assert asked == []


class Unbuilt(Unregistered):
    """Asks for what is not there."""

    def __init__(self, *, power: Positive = 1.0) -> None:
        raise ZeroDivisionError("a fault of __init__")


def test_what_cannot_be_built_is_told_in_one_sentence():
    class NoSource(Uniform):
        """A copy."""

        def __init__(self, *, power: Positive = 1.0) -> None:
            raise ZeroDivisionError("a fault of __init__")

    class NoNetwork(torch.nn.Module):
        """Nothing."""

        def __init__(self, num_classes, channels, size) -> None:
            raise ZeroDivisionError("a fault of __init__")

    for check, thing in ((check_distiller, Unbuilt), (check_source, NoSource), (check_model, NoNetwork)):
        with pytest.raises(ContractError) as caught:
            check(thing)
        said = f"{thing.__name__}: it cannot be built: ZeroDivisionError: a fault of __init__"
        assert str(caught.value) == said


# Exemptions.


def test_an_exemption_lets_a_broken_rule_pass():
    for check in bind([broken, raising], None, {"broken": "known", "raising": "known"}):
        check()


def test_an_exemption_that_is_not_needed_is_a_fault():
    check = bind([kept], None, {"kept": "it was broken once"})[0]
    with pytest.raises(
        ContractError, match=r"^it is exempt \(it was broken once\) and keeps the rule\. Take"
    ):
        check()


@pytest.mark.parametrize("reason", ["", "  "])
def test_an_exemption_needs_a_reason(reason):
    with pytest.raises(
        UsageError, match=r"^exempt: 'kept' must have a reason, got an empty one\. Say why\.$"
    ):
        bind([kept], None, {"kept": reason})


def test_an_exemption_from_an_unknown_rule_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match=r"there is no rule 'steps_repeats'\. Did you mean 'steps_repeat'"):
        distiller_checks(KD, exempt={"steps_repeats": "a slip"})
    with pytest.raises(
        UsageError, match=r"there is no rule 'fiting_repeats'\. Did you mean 'fitting_repeats'"
    ):
        source_checks("uniform", exempt={"fiting_repeats": "a slip"})


def test_check_distiller_takes_exemptions():
    with pytest.raises(ContractError, match="1 of"):
        check_distiller(Bad, pairs=())
    check_distiller(Bad, pairs=(), exempt={"label_weight_is_a_finite_number": "on purpose"})
    with pytest.raises(ContractError, match=r"steps_repeat: it is exempt \(no need\) and keeps the rule"):
        check_distiller(Unregistered, pairs=(), exempt={"steps_repeat": "no need"})


# What is checked, and on what.


@pytest.mark.parametrize("thing", [KD(), 3, Uniform, None])
def test_what_is_no_distiller_is_refused(thing):
    with pytest.raises(UsageError, match=r"^check_distiller: takes a Distiller's class or its name, got"):
        check_distiller(thing)


@pytest.mark.parametrize("thing", [Uniform(), 3, KD, None])
def test_what_is_no_source_is_refused(thing):
    with pytest.raises(UsageError, match=r"^check_source: takes a Source's class or its name, got"):
        check_source(thing)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match=r"there is no distiller 'dkdd'\. Did you mean"):
        check_distiller("dkdd")
    with pytest.raises(UsageError, match=r"there is no source 'unifrom'\. Did you mean 'uniform'"):
        check_source("unifrom")


def test_a_class_need_not_be_registered():
    check_distiller(Unregistered)
    check_source(type("Own", (Uniform,), {"__doc__": "A copy."}))


def test_names_and_classes_give_the_same_checks():
    assert [str(c) for c in distiller_checks("kd")] == [str(c) for c in distiller_checks(KD)]
    assert [str(c) for c in distiller_checks("kd")] == [rule.__name__ for rule in RULES]
    assert [str(c) for c in source_checks("uniform")] == [str(c) for c in source_checks(Uniform)]
    assert all(isinstance(check, Check) for check in distiller_checks("kd"))


def test_options_are_checked_and_used():
    with pytest.raises(
        UsageError, match=r"^Required: option 'weight' must be given: a number in \(0, inf\)\.$"
    ):
        check_distiller(Required)
    with pytest.raises(UsageError, match="there is no option 'wieght'"):
        check_distiller(Required, options={"wieght": 1})
    with pytest.raises(UsageError, match="weight must be a number in"):
        distiller_checks(Required, options={"weight": 0})
    check_distiller(Required, options={"weight": "2"}, pairs=())
    (check, *_) = distiller_checks(Required, options={"weight": "2"}, pairs=())
    assert check.subject.options == {"weight": 2.0}
    with pytest.raises(UsageError, match=r"File: option 'path' must be given"):
        check_source("file")


def test_own_batches_are_used():
    seen = []

    class Looking(Unregistered):
        """Remembers how many classes it saw."""

        def forward(self, student, guide, batch, progress):
            seen.append(student.logits.shape[1])
            return super().forward(student, guide, batch, progress)

    own = [make_case("own", classes=7), make_case("of three", classes=3, samples=5)]
    for check in distiller_checks(Looking, batches=own, pairs=()):
        if check.name != "networks_in_bf16_train" and "cohort" not in check.name:
            check()
    assert set(seen) == {7, 3}
    assert own[0].student.logits.grad is None


def test_a_fault_names_the_batch_that_shows_it():
    class Wide(Unregistered):
        """Cannot take seven classes."""

        def forward(self, student, guide, batch, progress):
            factor = 1 / (student.logits.shape[1] - 7) if progress.epoch else 1
            return {"small": self.weight * student.logits.square().mean() * factor}

    with pytest.raises(ContractError, match=r"with 'seven' in epoch 10 of 40: .*division by zero"):
        check_distiller(Wide, batches=[make_case("ordinary"), make_case("seven", classes=7)], pairs=())


class Particular(Unregistered):
    """Wants three classes or more, and says so."""

    @classmethod
    def for_setting(cls, setting, **options):
        if setting.classes < 3:
            raise UsageError(
                f"particular: classes must be at least 3, got {setting.classes}. Take other data."
            )
        return cls(**options)


def test_a_batch_may_be_refused_but_the_ordinary_one():
    check_distiller(Particular, pairs=())
    with pytest.raises(
        ContractError, match=r"^Particular: it cannot be built: particular: classes must be at least 3, got 2"
    ):
        check_distiller(Particular, batches=[make_case("two", classes=2)], pairs=())


def test_own_pairs_are_used():
    seen = []

    class Looking(Unregistered):
        """Remembers for which students it was built."""

        @classmethod
        def for_setting(cls, setting, **options):
            seen.append(setting.student.logits)
            return cls(**options)

    networks = [build_model("lenet5", num_classes=6, channels=1, size=32) for _ in range(2)]
    pair = NetworkPair("own", *networks, torch.randn(2, 1, 32, 32))
    check_distiller(Looking, pairs=[pair])
    assert (6,) in seen
    assert all(p.grad is None for network in networks for p in network.parameters())
    assert all(network.training for network in networks)


def test_own_networks_are_used():
    built = []

    class Encoder(Source):
        """Sees whether the network is the one that it shall train."""

        trains = ("encoder",)
        paper = "none: a test"

        def fit(self, workshop):
            network = workshop.train(
                "encoder", lambda network, batch: network(batch.images).logits.square().mean()
            )
            with torch.no_grad():
                images = workshop.images(np.arange(4), purpose="own", draw=0, augmented=False)
                self._rows = network(images).logits.softmax(dim=1)

        def __call__(self, batch):
            from kdzoo.outputs import probabilities

            return probabilities(self._rows[batch.labels % 4])

    def build():
        built.append(build_model("lenet5", num_classes=4, channels=1, size=32))
        return built[-1]

    with pytest.raises(
        ContractError, match=r"there is no network for its section 'encoder'\. Give networks="
    ):
        check_source(Encoder)
    source_checks(Encoder, networks={"encoder": build})[1]()
    assert len(built) == 1


def test_cases_are_always_the_same_and_can_be_copied():
    for one, other in zip(cases(), cases(), strict=True):
        assert one.name == other.name
        assert torch.equal(one.student.logits, other.student.logits)
        assert one.setting.student == other.setting.student
        assert torch.equal(one.batch.labels, one.setting.labels[one.batch.indices])
        changed = one.changed()
        assert torch.equal(changed.batch.labels, changed.setting.labels[changed.batch.indices])
        assert changed.student.logits.is_leaf
    copy = cases()[0].fresh()
    copy.student.logits.data.zero_()
    assert cases()[0].student.logits.abs().sum() > 0


def test_pairs_are_built_once():
    assert network_pairs() is network_pairs()


# Who was written into.


def test_a_watch_sees_values_and_versions():
    first, second, third = (torch.ones(3) for _ in range(3))
    watch = Watch()
    watch.add({"first": first, "second": second})
    watch.add({"third": third})
    assert watch.written() is None
    watch.check()
    second.mul_(1)
    assert watch.written() == "second"
    first.data[0] = 2
    assert watch.written() == "first"
    with pytest.raises(ContractError, match=r"^it writes into first, which others read too\. Work on"):
        watch.check()


def test_a_watch_sees_who_asks_for_gradients():
    watch, tensor = Watch(), torch.ones(3)
    watch.add({"it": tensor})
    tensor.requires_grad_()
    assert watch.written() == "it"
    with torch.inference_mode():
        made = torch.ones(3)
    watch = Watch()
    watch.add({"made in inference mode": made})
    assert watch.written() is None


def test_options_of_an_inherited_class_are_those_of_its_own_init():
    assert list(options_of(Required)) == ["weight"]
    assert options_of(Required)["weight"].required
