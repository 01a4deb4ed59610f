import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from kdzoo.checks import UsageError
from kdzoo.distillers import build_distiller
from kdzoo.distillers.crd import CRD, crd_loss, log_normaliser
from kdzoo.functional import memories
from kdzoo.functional.memories import drawn_rows
from kdzoo.functional.vectors import unit
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress

DTYPES = [torch.float32, torch.float64]
LABELS = torch.tensor([2, 0, 1, 0, 2, 2, 1, 0, 1, 0, 2, 1])
SMALL = {"k": 30, "dim": 5}


@pytest.fixture
def small(setting):
    """A function that makes a distiller for embeddings of 4 and 4 and twelve samples of three classes."""

    def made(labels=LABELS, dtype=torch.float64, **options):
        given = setting._replace(labels=labels, classes=3)
        return build_distiller("crd", given, SMALL | options).to(dtype)

    return made


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def step(distiller, student, teacher, indices, seed=0, labels=LABELS):
    """A step as a member makes it, with the generator seeded."""
    torch.manual_seed(seed)
    guide = Guide(None, distiller.detached_digest(ModelOutput(torch.zeros(len(teacher), 3), teacher)))
    batch = Batch(torch.empty(len(indices), 0), labels[indices], indices)
    output = ModelOutput(torch.zeros(len(student), 3), student)
    (term,) = distiller(output, guide, batch, Progress(0, 2, 0, 2)).values()
    return term


def rows_of(distiller, indices, seed=0):
    """The rows of the memories that a step draws."""
    torch.manual_seed(seed)
    places = (distiller.row[indices], distiller.first[indices], distiller.count[indices])
    return drawn_rows(*places, k=distiller.k, samples=len(distiller.row))


@pytest.mark.parametrize("portion", [2**24, 30])
@pytest.mark.parametrize("negatives", ["other_classes", "other_samples"])
def test_the_class_is_the_weighted_loss_of_both_networks(small, negatives, portion, monkeypatch):
    """And so are its gradients, though they are made before the memories move on."""
    monkeypatch.setattr(memories, "PORTION", portion)
    distiller = small(weight=3, temperature=0.2, negatives=negatives)
    student, teacher = drawn(4, 4).requires_grad_(), drawn(4, 4, seed=1)
    leaves = [student, *distiller.parameters()]
    indices = torch.tensor([7, 0, 11, 4])
    step(distiller, student, teacher, indices)
    for seed in (1, 2):
        rows = rows_of(distiller, indices, seed)
        anchors = unit(distiller.student_map(student)), unit(distiller.teacher_map(teacher))
        kept = [distiller.teacher_memory.clone(), distiller.student_memory.clone()]
        expected = 0.0
        for own, memory, log_z in zip(anchors, kept, distiller.log_z.clone(), strict=True):
            scores = (own[:, None] * memory[rows]).sum(dim=2)
            expected += 3 * crd_loss(scores[:, 0], scores[:, 1:], samples=12, temperature=0.2, log_z=log_z)
        slopes = torch.autograd.grad(expected, leaves)
        found = step(distiller, student, teacher, indices, seed)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(torch.autograd.grad(found, leaves), slopes)
        assert all(slope.abs().max() > 1e-3 for slope in slopes)


def test_memories_hold_unit_vectors_and_move_after_the_loss(small):
    distiller = small(momentum=0.25)
    indices, others = torch.tensor([7, 0]), torch.tensor([1, 2, 3, 4, 5, 6, 8, 9, 10, 11])
    student, teacher = drawn(2, 4).requires_grad_(), drawn(2, 4, seed=1)
    for name, embedding in (("student", student), ("teacher", teacher)):
        memory = getattr(distiller, f"{name}_memory")
        before, anchors = memory.clone(), unit(getattr(distiller, f"{name}_map")(embedding)).detach()
        torch.testing.assert_close(before.norm(dim=1), torch.ones(12, dtype=torch.float64))
        place = memory.data_ptr()
        fresh = small(momentum=0.25)
        fresh.load_state_dict(distiller.state_dict())
        step(fresh, student, teacher, indices)
        after = getattr(fresh, f"{name}_memory")
        rows, left = distiller.row[indices], distiller.row[others]
        torch.testing.assert_close(after[rows], unit(0.25 * before[rows] + 0.75 * anchors))
        assert torch.equal(after[left], before[left])
        assert not after.requires_grad
        step(distiller, student, teacher, indices)
        assert getattr(distiller, f"{name}_memory").data_ptr() == place


def test_z_is_the_first_batchs(small):
    distiller = small(temperature=0.3)
    assert distiller.log_z.tolist() == [-math.inf, -math.inf]
    student, teacher, indices = drawn(3, 4), drawn(3, 4, seed=1), torch.tensor([3, 5, 6])
    kept = distiller.teacher_memory.clone(), distiller.student_memory.clone()
    anchors = unit(distiller.student_map(student)), unit(distiller.teacher_map(teacher))
    rows = rows_of(distiller, indices)
    step(distiller, student, teacher, indices)
    for own, memory, log_z in zip(anchors, kept, distiller.log_z, strict=True):
        scores = (own[:, None] * memory[rows]).sum(dim=2)
        torch.testing.assert_close(log_z, log_normaliser(scores, samples=12, temperature=0.3))
        torch.testing.assert_close(log_z.exp(), 12 * (scores / 0.3).exp().mean())
    first = distiller.log_z.clone()
    step(distiller, 2 * teacher, student, indices.flip(0), seed=5)
    assert torch.equal(distiller.log_z, first)


@pytest.mark.parametrize("negatives", ["other_classes", "other_samples"])
def test_negatives_are_of_whom_the_option_says(small, negatives):
    """More are drawn than there are samples: all that may be drawn are, others never."""
    distiller = small(negatives=negatives, k=400)
    indices = torch.arange(12)
    sample_of = distiller.row.argsort()
    for sample, rows in zip(indices.tolist(), rows_of(distiller, indices), strict=True):
        found = sample_of[rows]
        assert found[0] == sample
        allowed = LABELS[sample] != LABELS if negatives == "other_classes" else indices != sample
        assert set(found[1:].tolist()) == set(indices[allowed].tolist())


def test_positives_become_likelier_than_negatives(small):
    distiller = small(momentum=0, k=60)
    teacher = drawn(12, 4, seed=1)
    student = teacher.clone().requires_grad_()
    optimizer = torch.optim.SGD([student, *distiller.parameters()], lr=0.05)
    losses = []
    for seed in range(40):
        losses.append(step(distiller, student, teacher, torch.arange(12), seed))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]
    cosines = distiller.student_memory @ distiller.teacher_memory.T
    assert cosines.diagonal().mean() > 0.8
    assert cosines.diagonal().mean() > cosines.mean() + 0.5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("scale", "kind"), [(1, "drawn"), (0, "drawn"), (1e4, "drawn"), (1e-4, "drawn"), (1, "equal")]
)
@pytest.mark.parametrize("temperature", [0.07, 1e-3])
def test_gradients_stay_finite(small, dtype, scale, kind, temperature):
    """The maps' biases are 0, so that a zero embedding has no direction at all."""
    for count in (1, 5):
        distiller = small(dtype=dtype, temperature=temperature)
        for mapped in (distiller.student_map, distiller.teacher_map):
            torch.nn.init.zeros_(mapped.bias)
        student, teacher = scale * drawn(count, 4, dtype=dtype), scale * drawn(count, 4, seed=1, dtype=dtype)
        if kind == "equal":
            student, teacher = student[:1].repeat(count, 1), student[:1].repeat(count, 1)
        for seed in range(3):
            leaf = student.clone().requires_grad_()
            term = step(distiller, leaf, teacher, torch.arange(count), seed)
            slopes = torch.autograd.grad(term, [leaf, *distiller.parameters()])
            assert term.dtype == dtype
            assert all(tensor.isfinite().all() for tensor in (term, *slopes, *distiller.buffers()))


def test_a_sample_that_comes_twice_in_a_batch_is_no_fault(small):
    distiller = small()
    term = step(distiller, drawn(3, 4), drawn(3, 4, seed=1), torch.tensor([2, 2, 2]))
    assert term.isfinite()
    torch.testing.assert_close(distiller.student_memory.norm(dim=1), torch.ones(12, dtype=torch.float64))


def test_two_classes_and_two_samples_do(small):
    labels = torch.tensor([1, 0])
    for negatives in ("other_classes", "other_samples"):
        distiller = small(labels=labels, negatives=negatives)
        term = step(distiller, drawn(2, 4), drawn(2, 4, seed=1), torch.arange(2), labels=labels)
        assert term.isfinite()


@pytest.mark.parametrize(
    "option",
    [
        {"weight": 2}, {"dim": 6}, {"k": 31}, {"temperature": 0.1}, {"momentum": 0.4},
        {"negatives": "other_samples"},
    ],
    ids=str,
)  # fmt: skip
def test_every_option_changes_the_second_step(small, option):
    def second(**options):
        torch.manual_seed(0)
        distiller = small(**options)
        indices = torch.arange(6)
        return [step(distiller, drawn(6, 4), drawn(6, 4, seed=1), indices, seed).item() for seed in (0, 1)][1]

    assert second() == second()
    assert second() != second(**option)


class Largest(TorchDispatchMode):
    """The most numbers in one tensor of all that are made."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **kwargs or {})
        sizes = [t.numel() for t in tree_iter(made) if isinstance(t, torch.Tensor)]
        self.most = max(self.most, *sizes, 0)
        return made


@pytest.mark.parametrize(("k", "dim", "most"), [(300, 8, 600 * 8), (900, 1, 8 * 901)])
def test_rows_of_the_memory_are_never_collected(small, monkeypatch, k, dim, most):
    """Nothing is larger than a memory, a number for each negative, and a portion: neither N x k x dim nor
    N x M."""
    monkeypatch.setattr(memories, "PORTION", 900)
    labels = torch.arange(600) % 3
    distiller = small(labels=labels, k=k, dim=dim)
    student, teacher = drawn(8, 4).requires_grad_(), drawn(8, 4, seed=1)
    with Largest() as seen:
        step(distiller, student, teacher, torch.arange(8), labels=labels).backward()
    assert seen.most == most


def test_the_defaults_are_those_of_the_authors_code_and_the_benchmarks(setting):
    distiller = build_distiller("crd", setting)
    assert distiller.options == {
        "weight": 0.8, "dim": 128, "k": 16384, "temperature": 0.07, "momentum": 0.5,
        "negatives": "other_classes",
    }  # fmt: skip
    assert CRD.needs == {"embedding", "indices"}
    assert distiller.student_memory.shape == distiller.teacher_memory.shape == (10, 128)


def test_checkpoints_hold_what_lasts_and_no_more(small):
    distiller = small()
    assert set(distiller.state_dict()) == {
        "student_map.weight", "student_map.bias", "teacher_map.weight", "teacher_map.bias",
        "student_memory", "teacher_memory", "log_z",
    }  # fmt: skip


def test_the_teachers_side_is_its_embedding(pair, setting):
    outputs = pair(dtype=torch.float32)
    kept = build_distiller("crd", setting).detached_digest(outputs.teacher)
    assert list(kept) == ["embedding"]
    assert torch.equal(kept["embedding"], outputs.teacher.embedding)
    assert (CRD.digest_scope, CRD.digest_options) == ("sample", ())


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([], {}, "crd: it needs the labels of the training set, got none. Give labels=...."),
        ([1, 1, 1], {}, "crd: negatives=other_classes needs training images of two classes or more, got one. "
         "Use crd:negatives=other_samples."),
        ([1], {"negatives": "other_samples"},
         "crd: it needs two training images or more, got one. Add images."),
    ],
)  # fmt: skip
def test_a_training_set_without_negatives_is_refused(setting, labels, options, message):
    given = setting._replace(labels=torch.tensor(labels, dtype=torch.int64))
    with pytest.raises(UsageError) as caught:
        build_distiller("crd", given, options)
    assert str(caught.value) == message


def test_samples_of_one_class_do_where_others_are_drawn(small):
    labels = torch.ones(4, dtype=torch.int64)
    distiller = small(labels=labels, negatives="other_samples")
    assert step(distiller, drawn(2, 4), drawn(2, 4), torch.arange(2), labels=labels).isfinite()


@pytest.mark.parametrize(
    "option",
    [{"k": 0}, {"dim": 0}, {"temperature": 0}, {"momentum": 1.5}, {"weight": -1}, {"negatives": "all"}],
)
def test_options_out_of_range_are_refused(option, setting):
    (name,) = option
    with pytest.raises(UsageError, match=f"^crd: {name} must be"):
        build_distiller("crd", setting, option)
