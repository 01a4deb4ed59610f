"""What the losses on stages and embeddings have in common."""

from functools import partial

import pytest
import torch

from kdzoo.distillers import build_distiller
from kdzoo.distillers.at import at_loss
from kdzoo.distillers.fitnet import fitnet_loss
from kdzoo.distillers.kdsvd import kdsvd_loss
from kdzoo.distillers.pkt import pkt_loss
from kdzoo.distillers.rkd import rkd_angle_loss, rkd_distance_loss

# Another size, a non-square one, another number of channels: (C, H, W) of the student and of the teacher.
STAGES = (((3, 4, 5), (2, 4, 3)), ((4, 5, 4), (3, 2, 3)))
EQUAL_CHANNELS = (((3, 4, 5), (4, 3, 3)), ((3, 5, 4), (4, 3, 3)))
EMBEDDINGS = (((4,),), ((6,),))


def many(loss, **options):
    return lambda students, teachers: loss(students, teachers, **options)


def one(loss, **options):
    return lambda students, teachers: loss(*students, *teachers, **options)


LOSSES = {
    "at": (partial(at_loss, p=2.0), STAGES),
    "at p=1": (partial(at_loss, p=1.0), STAGES),
    "at p=1.5": (partial(at_loss, p=1.5), STAGES),
    "at p=4": (partial(at_loss, p=4.0), STAGES),
    "fitnet": (one(fitnet_loss), (((3, 4, 5),), ((3, 4, 5),))),
    "kdsvd width": (partial(kdsvd_loss, k=1, layout="width"), STAGES),
    "kdsvd width k=2": (partial(kdsvd_loss, k=2, layout="width"), STAGES),
    "kdsvd channel": (partial(kdsvd_loss, k=1, layout="channel"), EQUAL_CHANNELS),
    "kdsvd channel k=2": (partial(kdsvd_loss, k=2, layout="channel"), EQUAL_CHANNELS),
    "pkt": (one(pkt_loss, eps=1e-7), EMBEDDINGS),
    "pkt eps=0": (one(pkt_loss, eps=0.0), EMBEDDINGS),
    "rkd distance": (one(rkd_distance_loss), EMBEDDINGS),
    "rkd angle": (one(rkd_angle_loss), EMBEDDINGS),
}
EVERY = pytest.mark.parametrize("name", LOSSES)


def drawn(shapes, seed, samples=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(samples, *shape, generator=generator, dtype=torch.float64) for shape in shapes]


def separated(shapes, layout, samples=3):
    """Stages whose matrices have the singular values 1, 1/2, 1/4, ..., far enough apart for differences."""
    made = []
    for stage in drawn(shapes, 0, samples):
        matrices = stage.flatten(1, 2) if layout == "width" else stage.flatten(2).mT
        left, _, right = torch.linalg.svd(matrices, full_matrices=False)
        values = 0.5 ** torch.arange(right.shape[1], dtype=torch.float64)
        whole = left * values @ right
        made.append((whole if layout == "width" else whole.mT).reshape(stage.shape))
    return made


@EVERY
def test_gradients_are_those_of_the_values(name):
    loss, (student, teacher) = LOSSES[name]
    students = separated(student, name.split()[1]) if name.startswith("kdsvd") else drawn(student, 0)
    teachers = drawn(teacher, 1)
    leaves = [s.requires_grad_() for s in students]
    assert torch.autograd.gradcheck(lambda *given: loss(given, teachers), leaves)


@EVERY
def test_equal_networks_lose_nothing_and_move_nothing(name):
    loss, (student, _) = LOSSES[name]
    teachers = drawn(student, 0)
    leaves = [t.clone().requires_grad_() for t in teachers]
    value = loss(leaves, teachers)
    assert value.abs() < 1e-12
    # PKT's eps stands beside the student's share, and pulls by as much.
    assert all(g.abs().max() < (1e-7 if name == "pkt" else 1e-12) for g in torch.autograd.grad(value, leaves))


@EVERY
def test_different_networks_lose_something_and_every_input_moves(name):
    loss, (student, teacher) = LOSSES[name]
    leaves = [s.requires_grad_() for s in drawn(student, 0)]
    value = loss(leaves, drawn(teacher, 1))
    assert value > 1e-4
    assert value.shape == ()
    assert value.dtype == torch.float64
    assert all(g.abs().max() > 1e-6 for g in torch.autograd.grad(value, leaves))


@EVERY
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_a_diverged_student_gives_no_number_and_no_error(name, wrong):
    """The member sees it by its loss; an error would count as a fault of the method."""
    loss, (student, teacher) = LOSSES[name]
    students = drawn(student, 0)
    students[-1][1].flatten()[0] = wrong
    leaves = [s.requires_grad_() for s in students]
    value = loss(leaves, drawn(teacher, 1))
    assert not value.isfinite()
    value.backward()


@EVERY
def test_the_order_of_the_samples_means_nothing(name):
    loss, (student, teacher) = LOSSES[name]
    students, teachers, order = drawn(student, 0, 5), drawn(teacher, 1, 5), [3, 0, 4, 1, 2]
    found = loss([s[order] for s in students], [t[order] for t in teachers])
    torch.testing.assert_close(found, loss(students, teachers))


@pytest.mark.parametrize("name", ["at", "fitnet", "kdsvd", "pkt", "rkd"])
def test_no_gradient_reaches_the_teacher(name, pair):
    outputs = pair()
    for tensor in (outputs.teacher.embedding, *outputs.teacher.stages):
        tensor.requires_grad_()
    distiller = build_distiller(name, outputs.setting).double()
    labels = torch.arange(6) % 5
    distiller.loss(outputs.student, labels, teacher=outputs.teacher, epoch=0, epochs=1).backward()
    assert all(t.grad is None for t in (outputs.teacher.embedding, *outputs.teacher.stages))
    assert any(leaf.grad is not None for leaf in outputs.leaves[1:])


OPTIONS = {
    "at": [{"weight": 2}, {"p": 3}],
    "fitnet": [{"weight": 2}, {"hint": 1}, {"two_stage": True}],
    "kdsvd": [{"weight": 2}, {"k": 2}, {"layout": "channel"}],
    "pkt": [{"weight": 2}, {"eps": 0.1}],
    "rkd": [{"distance_weight": 2}, {"angle_weight": 2}],
}


@pytest.mark.parametrize(
    ("name", "changed"), [(name, changed) for name, options in OPTIONS.items() for changed in options]
)
def test_every_option_changes_a_number(name, changed, pair):
    outputs = pair()

    def numbers(options):
        torch.manual_seed(0)
        distiller = build_distiller(name, outputs.setting, options).double()
        labels = torch.arange(6) % 5
        given = {"teacher": outputs.teacher, "epoch": 150, "epochs": 200}
        return distiller.loss(outputs.student, labels, **given), distiller.options

    (usual, options), (other, _) = numbers({}), numbers(changed)
    assert (usual - other).abs() > 1e-3 * usual
    assert set(options) == {n for c in OPTIONS[name] for n in c}
