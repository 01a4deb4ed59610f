import math

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d
from torch.utils._python_dispatch import TorchDispatchMode

from kdzoo.functional.stages import StagePair, common_size, pair_stages, pool, stage_pair


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("full", [(5, 7), (8, 4), (1, 9), (16, 3)])
def test_pooling_is_torchs_adaptive_average_with_its_gradient(full, dtype):
    stage = drawn(2, 3, *full, dtype=dtype).requires_grad_()
    for size in [(h, w) for h in range(1, full[0] + 1) for w in range(1, full[1] + 1)]:
        found, expected = pool(stage, size), adaptive_avg_pool2d(stage, size)
        torch.testing.assert_close(found, expected)
        weights = drawn(*found.shape, dtype=dtype)
        torch.testing.assert_close(
            *(torch.autograd.grad((x * weights).sum(), stage)[0] for x in (found, expected))
        )


def test_pooling_leaves_a_stage_of_the_right_size_alone():
    stage = drawn(2, 3, 4, 5)
    assert pool(stage, None) is stage
    assert pool(stage, (4, 5)) is stage


def test_pooling_has_no_operation_without_a_deterministic_backward():
    """adaptive_avg_pool2d has no deterministic gradient on CUDA where bins overlap; matrix products have."""
    seen = set()

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.add(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    stage = drawn(2, 3, 7, 7).requires_grad_()
    with Recorder():
        pool(stage, (3, 5)).sum().backward()
    assert "bmm" in seen
    assert not [name for name in seen if "pool" in name or "interpolate" in name or "upsample" in name]


@pytest.mark.parametrize("n", range(1, 9))
@pytest.mark.parametrize("m", range(1, 9))
def test_stage_i_of_n_meets_stage_ceil_i_m_over_n(n, m):
    student, teacher = ([(c + 1, 8, 8) for c in range(count)] for count in (n, m))
    pairs = pair_stages(student, teacher)
    assert [(p.student + 1, p.teacher + 1) for p in pairs] == [
        (i, math.ceil(i * m / n)) for i in range(1, n + 1)
    ]
    assert (pairs[-1].student, pairs[-1].teacher) == (n - 1, m - 1)
    for pair in pairs:
        assert pair.student_shape == student[pair.student]
        assert pair.teacher_shape == teacher[pair.teacher]


def test_lenet_meets_the_second_and_the_fourth_stage_of_resnet18():
    lenet = ((6, 28, 28), (16, 10, 10))
    resnet = ((64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4))
    assert pair_stages(lenet, resnet) == (
        StagePair(0, 1, (6, 28, 28), (128, 16, 16), (16, 16)),
        StagePair(1, 3, (16, 10, 10), (512, 4, 4), (4, 4)),
    )


def test_two_sizes_meet_at_the_smaller_height_and_the_smaller_width():
    assert common_size((3, 8, 4), (2, 6, 6)) == (6, 4)
    assert common_size((8, 4), (1, 2, 6, 6)) == (6, 4)
    assert stage_pair([(3, 8, 4)], 0, [(1, 1, 1), (2, 6, 6)], 1).size == (6, 4)
    assert pool(drawn(1, 3, 8, 4), (6, 4)).shape == (1, 3, 6, 4)
    assert pool(drawn(1, 2, 6, 6), (6, 4)).shape == (1, 2, 6, 4)


def test_a_pair_is_described_as_records_keep_it():
    pair = stage_pair([[6, 28, 28]], 0, [(64, 32, 32), (128, 16, 16)], 1)
    assert pair.described() == {
        "student_stage": 1,
        "student_shape": [6, 28, 28],
        "teacher_stage": 2,
        "teacher_shape": [128, 16, 16],
        "pooled_to": [16, 16],
    }
    assert pair._replace(size=None).described()["pooled_to"] is None
