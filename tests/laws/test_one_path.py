"""Law 9: one path for all; one view operation and one teacher pass a step; no sync on a GPU."""

from collections import Counter
from typing import Any

import pytest
import torch
from ownmodels import OWN
from tinyzoo import EPOCHS, STEPS, Bench, TinyStudent
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from kdzoo.data import views
from kdzoo.distillers import build_distiller
from kdzoo.models import build_model, output_shapes
from kdzoo.models.cifar_resnet import CifarResNet
from kdzoo.outputs import Batch, Guide, Progress, Setting, mix, norms_of, probabilities, scores
from kdzoo.registry import DISTILLERS
from kdzoo.testing.devices import _without_numbers
from kdzoo.training.cohort import Cohort
from kdzoo.training.member import Distillation
from kdzoo.training.networks import SharedTeacher


@pytest.mark.parametrize(
    ("methods", "teachers"),
    [("kd,dkd", 1), ("kd,dkd,noisy,scratch,kd:temperature=2", 1), ("scratch,kd+uniform", 0)],
)
def test_step_makes_its_views_and_its_teacher_pass_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, methods: str, teachers: int
) -> None:
    bench.run("kd", epochs=1, teacher_bank="off")  # makes the teacher
    calls: Counter[str] = Counter()
    # Views are made ahead, during some other step.
    made: Counter[str] = Counter()

    def count(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            (made if owner is views else calls)[owner.__name__] += 1
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, counted)

    count(views, "apply_views")
    count(CifarResNet, "forward")
    count(TinyStudent, "forward")
    real, found = Cohort.train_step, []

    def train_step(cohort: Cohort, data: tuple[int, int], optim_wrapper: Any = None) -> dict[str, Any]:
        calls.clear()
        result = real(cohort, data, optim_wrapper)
        found.append((calls["CifarResNet"], calls["TinyStudent"]))
        return result

    monkeypatch.setattr(Cohort, "train_step", train_step)
    bench.run(methods, teacher_bank="off")
    assert found == [(teachers, len(methods.split(",")))] * (EPOCHS * STEPS)
    assert made.total() == EPOCHS * STEPS


def fake_batch() -> Batch:
    return Batch(
        torch.randn(8, 1, 32, 32, device="cuda"), torch.zeros(8, dtype=torch.int64, device="cuda"),
        torch.arange(8, device="cuda"),
    )  # fmt: skip


def fake_network(name: str) -> torch.nn.Module:
    with torch.device("cuda"):
        return build_model(name, num_classes=10, channels=1, size=32)


def test_fake_device_notices_a_sync_and_a_mismatch() -> None:
    """Guards the tests below."""
    with FakeTensorMode():
        batch = fake_batch()
        with pytest.raises(DataDependentOutputException):
            batch.images.sum().item()
        with pytest.raises(RuntimeError, match="device"):
            batch.images + torch.zeros(8, 1, 32, 32)


# A family is built by its members.
MEMBERS = ["module:toynets.Plain", "timm:resnet18", "torchvision:mobilenet_v3_small"]


@pytest.mark.parametrize("name", [*OWN, *MEMBERS])
def test_networks_run_on_cuda_without_mismatch_or_sync(name: str) -> None:
    with FakeTensorMode():
        output = fake_network(name)(fake_batch().images)
        tensors = [output.logits, output.embedding, *(output.stages or ()), *(output.preactivations or ())]
        assert {t.device.type for t in tensors if t is not None} == {"cuda"}


@pytest.mark.parametrize("kind", ["scores", "probabilities", "mix"])
@pytest.mark.parametrize("name", DISTILLERS.names())
def test_losses_run_on_cuda_without_mismatch_or_sync(name: str, kind: str) -> None:
    """The terms of a step, as a member computes them, with default options; built of numbers on the CPU and
    moved, as members are."""
    plain = [build_model(n, num_classes=10, channels=1, size=32) for n in ("lenet5", "resnet20")]
    shapes, head = [output_shapes(network, 1, 32) for network in plain], plain[1].classifier
    setting = Setting(*shapes, head, 10, torch.arange(100) % 10, teacher_norms=norms_of(plain[1]))
    built = build_distiller(name, setting)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    distiller = _without_numbers(built, head, mode, "cuda")
    with mode:
        batch = fake_batch()
        student, teacher = fake_network("lenet5"), SharedTeacher(fake_network("resnet20"), "float32")
        output = teacher(batch)
        parts = {
            "scores": scores(output.logits),
            "probabilities": probabilities(output.logits.softmax(dim=1)),
        }
        soft_labels = parts[kind] if kind in parts else mix([0.25, 0.75], list(parts.values()))
        digest = distiller.digest(output) if distiller.needs_teacher() else {}
        guide = Guide(soft_labels if "soft_labels" in distiller.needs else None, digest)
        terms = Distillation(distiller, "float32").terms(student, batch, guide, Progress(0, 2, 0, 3))
        assert {t.device.type for t in terms.values()} == {"cuda"}
        assert {t.shape for t in terms.values()} == {torch.Size()}
