import copy

import pytest
import torch
from torch import nn

import kdzoo
from kdzoo.checks import UsageError
from kdzoo.distillers import Distiller, build_distiller
from kdzoo.distillers.simkd import ReusedClassifier, SimKD, averages, projector, simkd_loss
from kdzoo.functional.normalisation import BatchNorm
from kdzoo.functional.stages import pool
from kdzoo.outputs import ModelOutput, Progress, Setting, scores

# The embedding is as wide as the last stage has channels: its average.
STUDENT, TEACHER = ((3, 6, 6), (5, 4, 4)), ((2, 6, 6), (4, 3, 3))


def head(given: int, classes: int = 5) -> nn.Linear:
    return nn.Linear(given, classes)


def setting_of(outputs, classifier: nn.Module) -> Setting:
    return outputs.setting._replace(teacher_head=classifier)


@pytest.fixture
def outputs(pair):
    return pair(STUDENT, TEACHER, widths=(7, 4), dtype=torch.float32)


@pytest.fixture
def distiller(outputs) -> Distiller:
    return build_distiller("simkd", setting_of(outputs, head(4)))


class Student(nn.Module):
    """Two convolutions as stages, and a classifier of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 5, 3)
        self.norm = nn.BatchNorm2d(5)
        self.classifier = nn.Linear(5, 5)

    def forward(self, images):
        fine = self.fine(images).relu()
        coarse = self.norm(self.coarse(fine)).relu()
        embedding = coarse.mean(dim=(2, 3))
        return ModelOutput(self.classifier(embedding), embedding, (fine, coarse))


IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def test_the_defaults_are_those_of_the_authors_code(distiller):
    assert distiller.options == {"weight": 1.0, "factor": 2}
    assert SimKD.needs == {"stages", "classifier"}
    assert all(distiller.label_weight(Progress(e, 200, 0, 1)) == 0 for e in (0, 100, 199))


@pytest.mark.parametrize(("options", "words"), [
    ({"weight": 0}, r"weight must be a number in \(0, inf\)"), ({"factor": 0}, "factor must be an integer"),
])  # fmt: skip
def test_options_out_of_range_are_refused(options, words, outputs):
    with pytest.raises(UsageError, match=f"^simkd: {words}"):
        build_distiller("simkd", setting_of(outputs, head(4)), options)


def test_the_loss_is_the_mean_of_squares():
    student, teacher = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[3.0, -1.0]]]])
    assert simkd_loss(student, teacher) == (4 + 9) / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("samples", [1, 6])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_gradients_are_finite(scale, samples, dtype, pair, learn):
    outputs = pair(STUDENT, TEACHER, widths=(7, 4), samples=samples, dtype=dtype)
    student, teacher = outputs
    outputs = outputs._replace(
        student=student._replace(stages=tuple(s * scale for s in student.stages)),
        teacher=teacher._replace(stages=tuple(s * scale for s in teacher.stages)),
    )
    distiller = build_distiller("simkd", setting_of(outputs, head(4))).to(dtype)
    term = learn(distiller, outputs)["simkd"]
    assert term.dtype == dtype
    term.backward()
    gradients = [student.stages[1].grad, *(p.grad for p in distiller.projector.parameters())]
    assert all(g.isfinite().all() for g in gradients)


def test_a_single_sample_of_a_single_pixel_trains(pair, learn):
    outputs = pair(((3, 4, 4),), ((4, 1, 1),), widths=(3, 4), samples=1, dtype=torch.float32)
    distiller = build_distiller("simkd", setting_of(outputs, head(4)))
    learn(distiller, outputs)["simkd"].backward()
    assert all(p.grad.isfinite().all() for p in distiller.projector.parameters())


def test_the_class_is_the_weighted_loss_of_the_last_stages_where_they_meet(outputs, learn):
    distiller = build_distiller("simkd", setting_of(outputs, head(4)), {"weight": 3})
    (found,) = distiller.pairs
    assert (found.student, found.teacher, found.size) == (1, 1, (3, 3))
    kept = distiller.detached_digest(outputs.teacher)
    assert list(kept) == ["map"]
    assert torch.equal(kept["map"], outputs.teacher.stages[1])
    terms = learn(distiller, outputs)
    assert list(terms) == ["simkd"]
    # Batch norm in training uses the batch alone.
    made = distiller.projector(pool(outputs.student.stages[1], (3, 3)))
    torch.testing.assert_close(terms["simkd"], 3 * simkd_loss(made, outputs.teacher.stages[1]))


def test_a_larger_map_of_the_teacher_is_pooled(pair, learn):
    outputs = pair(((3, 2, 3),), ((4, 6, 2),), widths=(3, 4), dtype=torch.float32)
    distiller = build_distiller("simkd", setting_of(outputs, head(4)))
    assert distiller.pairs[0].size == (2, 2)
    kept = distiller.detached_digest(outputs.teacher)["map"]
    torch.testing.assert_close(kept, pool(outputs.teacher.stages[0], (2, 2)))
    learn(distiller, outputs)["simkd"].backward()
    assert outputs.student.stages[0].grad.abs().max() > 0


@pytest.mark.parametrize(("factor", "between"), [(1, 4), (2, 2), (3, 1), (4, 1)])
def test_the_projector_is_a_bottleneck_of_three_convolutions(factor, between, outputs):
    made = build_distiller("simkd", setting_of(outputs, head(4)), {"factor": factor}).projector
    assert [type(part) for part in made] == [nn.Conv2d, BatchNorm, nn.ReLU] * 3
    shapes = [tuple(part.weight.shape) for part in made if isinstance(part, nn.Conv2d)]
    assert shapes == [(between, 5, 1, 1), (between, between, 3, 3), (4, between, 1, 1)]
    assert all(part.bias is None for part in made if isinstance(part, nn.Conv2d))
    assert made(torch.randn(2, 5, 3, 3)).shape == (2, 4, 3, 3)


def test_the_projector_trains_with_the_student_and_the_labels_do_not_matter(distiller, outputs, learn):
    optimiser = torch.optim.SGD(distiller.parameters(), lr=0.1, weight_decay=0.1)
    before = copy.deepcopy(distiller.classifier.state_dict())
    terms = []
    for _ in range(20):
        terms.append(learn(distiller, outputs)["simkd"])
        optimiser.zero_grad()
        terms[-1].backward()
        assert all(p.grad is not None for p in distiller.projector.parameters())
        optimiser.step()
    assert terms[-1] < 0.9 * terms[0]
    assert outputs.student.logits.grad is None
    assert outputs.student.stages[0].grad is None
    after = distiller.classifier.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_the_classifier_is_a_copy_that_stands_still(outputs):
    given = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 5)).train()
    distiller = build_distiller("simkd", setting_of(outputs, given))
    assert not any(p.requires_grad for p in distiller.classifier.parameters())
    assert all(p.requires_grad for p in given.parameters())
    for mode in (True, False):
        assert distiller.train(mode).projector.training is mode
        assert not any(part.training for part in distiller.classifier.modules())
    assert given.training
    with torch.no_grad():
        given[2].weight.add_(1)
    assert not torch.equal(distiller.classifier[2].weight, given[2].weight)


@pytest.mark.parametrize("grid", [1, 2])
def test_the_averages_are_those_of_networks(grid):
    stage = torch.randn(2, 3, 4, 4)
    expected = nn.functional.avg_pool2d(stage, 4 // grid).flatten(1)
    torch.testing.assert_close(averages(stage, grid), expected)


def test_a_classifier_may_take_a_grid_of_averages(pair):
    outputs = pair(STUDENT, TEACHER, widths=(7, 16), dtype=torch.float32)
    distiller = build_distiller("simkd", setting_of(outputs, head(16))).eval()
    output = distiller.deployed(Student().eval())(IMAGES)
    assert output.logits.shape == (6, 5)
    assert output.embedding.shape == (6, 16)


def test_the_deployed_network_is_the_student_the_projector_and_the_teachers_classifier(distiller):
    student = Student().eval()
    before = set(student.state_dict())
    output = distiller.eval().deployed(student)(IMAGES)
    made = distiller.projector(pool(student(IMAGES).stages[1], (3, 3)))
    expected = distiller.classifier(made.mean(dim=(2, 3)))
    torch.testing.assert_close(output.logits, expected)
    assert set(student.state_dict()) == before
    deployed = distiller.deployed(student)
    assert {n.partition(".")[0] for n in deployed.state_dict()} == {
        "student", "projector", "classifier", "places"
    }  # fmt: skip
    trained = {n.partition(".")[0] for n, p in deployed.named_parameters() if p.requires_grad}
    assert trained == {"student", "projector"}


def test_a_student_whose_projected_map_is_the_teachers_gives_the_teachers_logits():
    """The paper's reason for the method."""

    class Given(nn.Module):
        def forward(self, images):
            return ModelOutput(images.new_zeros(len(images), 5), None, (images,))

    classifier, maps = head(4), torch.randn(3, 4, 2, 2)
    deployed = ReusedClassifier(Given(), nn.Identity(), classifier, (2, 2), 1)
    assert torch.equal(deployed(maps).logits, classifier(maps.mean(dim=(2, 3))))


@pytest.mark.parametrize("bias", [True, False])
def test_the_deployed_network_is_built_again_from_its_weights(bias, outputs):
    classifier = nn.Linear(4, 5, bias=bias)
    distiller = build_distiller("simkd", setting_of(outputs, classifier), {"factor": 4}).eval()
    deployed = distiller.deployed(Student()).eval()
    weights = deployed.state_dict()
    again = SimKD.redeployed(Student(), weights).eval()
    again.load_state_dict(weights)
    assert torch.equal(again(IMAGES).logits, deployed(IMAGES).logits)
    names = [{n for n, p in m.named_parameters() if p.requires_grad} for m in (again, deployed)]
    assert names[0] == names[1]


def test_other_weights_are_refused():
    with pytest.raises(UsageError, match=r"^simkd: the weights must be a student's"):
        SimKD.redeployed(Student(), Student().state_dict())


def test_other_methods_deploy_the_bare_student():
    student = Student()
    assert Distiller.redeployed(student, student.state_dict()) is student


@pytest.mark.parametrize(("given", "told"), [(3, "3"), (5, "5"), (8, "8"), (12, "12")])
def test_a_classifier_that_takes_something_else_is_refused(given, told, pair):
    outputs = pair(STUDENT, TEACHER, widths=(7, given))
    with pytest.raises(UsageError) as caught:
        build_distiller("simkd", setting_of(outputs, head(given)))
    assert str(caught.value) == (
        "simkd: the teacher's classifier must take averages of its last stage, one or a square number of "
        f"each of its 4 channels, got {told} numbers. Choose another teacher."
    )


def test_maps_of_fewer_pixels_than_averages_are_refused(pair):
    outputs = pair(((3, 1, 1),), ((4, 4, 4),), widths=(3, 16))
    with pytest.raises(
        UsageError, match=r"must have 2x2 pixels or more, .* got 1x1\. Choose another student"
    ):
        build_distiller("simkd", setting_of(outputs, head(16)))


def test_a_bottleneck_without_channels_is_refused(outputs):
    with pytest.raises(UsageError) as caught:
        build_distiller("simkd", setting_of(outputs, head(4)), {"factor": 5})
    assert str(caught.value) == (
        "simkd: factor must be at most 4, the channels of the teacher's last stage, got 5. "
        "Set simkd:factor=4."
    )


def test_a_teacher_without_classifier_is_refused(outputs):
    with pytest.raises(UsageError, match="needs the teacher's classifier, which this teacher does not have"):
        build_distiller("simkd", outputs.setting)


def test_networks_of_the_zoo_meet_and_reload():
    def build(name: str) -> nn.Module:
        torch.manual_seed(0)
        return kdzoo.build_model(name, num_classes=4, channels=1, size=32).eval()

    images = torch.randn(2, 1, 32, 32)
    for student, teacher in (("lenet5", "resnet8x4"), ("mobilenetv2", "vgg8")):
        method = kdzoo.build_distiller("simkd", build(student), build(teacher), images).eval()
        deployed = method.deployed(build(student))
        weights = {name: value.clone() for name, value in deployed.state_dict().items()}
        again = SimKD.redeployed(build(student), weights).eval()
        again.load_state_dict(weights)
        assert torch.equal(again(images).logits, deployed(images).logits)
        assert again(images).logits.shape == (2, 4)


def test_soft_labels_are_not_read(distiller, outputs):
    assert "soft_labels" not in SimKD.needs
    labels = torch.arange(6) % 5
    losses = [
        distiller.loss(outputs.student, y, teacher=outputs.teacher, soft_labels=soft, epoch=0, epochs=1)
        for y in (labels, labels.flip(0))
        for soft in (None, scores(torch.zeros(6, 5)))
    ]
    torch.testing.assert_close(torch.stack(losses), losses[0].expand(4))


def test_the_projector_has_the_widths_it_is_told():
    assert [tuple(p.shape) for p in projector(2, 3, 4).parameters() if p.ndim == 4] == [
        (3, 2, 1, 1), (3, 3, 3, 3), (4, 3, 1, 1)
    ]  # fmt: skip
