"""Every network has as many parameters as are published of it."""

import pytest
import torch
from ownmodels import OWN

from kdzoo.models import build_model, count_parameters

# With 100 classes and 3 channels, at 32 pixels. ResNet-18, ResNet-50 and the autoencoder: the paper facts
# of Doshi and Kim 2024 (https://arxiv.org/abs/2404.09886, table 6 divides them); the others are counted by
# hand from the layers of the public code, as tests/helpers/publicnets.py spells them.
EXACT = {
    "autoencoder": 47_355,
    "lenet5": 69_700,
    "mobilenetv2": 812_836,
    "resnet8": 83_892,
    "resnet14": 181_108,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet44": 667_188,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "resnet18": 11_220_132,
    "resnet34": 21_328_292,
    "resnet50": 23_705_252,
    "resnet101": 42_697_380,
    "shufflenetv1": 949_258,
    "shufflenetv2": 1_355_528,
    "vgg8": 3_965_028,
    "vgg11": 9_277_284,
    "vgg13": 9_462_180,
    "vgg16": 14_774_436,
    "vgg19": 20_086_692,
    "wrn_16_1": 180_916,
    "wrn_16_2": 703_284,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,
}

DOSHI = "Doshi and Kim 2024, https://arxiv.org/abs/2404.09886, as the paper facts state"
WRN = "Zagoruyko and Komodakis 2016, https://arxiv.org/abs/1605.07146, table 4, CIFAR-10"
AT = "Zagoruyko and Komodakis 2017, https://arxiv.org/abs/1612.03928, table 1, CIFAR-10"
OVERHAUL = "Heo et al. 2019, https://github.com/clovaai/overhaul-distillation, README, CIFAR-100"
CHENYAOFO = "https://github.com/chenyaofo/pytorch-cifar-models, README, CIFAR-10"
WEIAICUNZAI = "https://github.com/weiaicunzai/pytorch-cifar100, README"
DA2LITE = "https://github.com/da2so/DA2Lite, model_zoo/README.md"
BEARPAW = "https://github.com/bearpaw/pytorch-classification, README, CIFAR-10"
CHAHAL = "https://github.com/karanchahal/distiller, models/model_factory.py, CIFAR-10"
MIRLOHI = "Mirlohi 2025, DATASCI223 final project, counted on the code of https://github.com/DefangChen/SimKD"

# Millions to the decimals that are printed. No printed figure was found of MobileNetV2 at half width,
# ShuffleNet V1 and V2, VGG-8 and resnet8x4.
PUBLISHED = [
    ("lenet5", 10, 1, "0.061750", DOSHI),
    ("autoencoder", 100, 3, "0.047355", DOSHI),
    ("autoencoder", 10, 1, "0.046585", DOSHI),
    ("resnet18", 10, 1, "11.172810", DOSHI),
    ("resnet18", 100, 3, "11.220132", DOSHI),
    ("resnet50", 100, 3, "23.705252", DOSHI),
    ("resnet18", 100, 3, "11.22", DA2LITE),
    ("resnet34", 100, 3, "21.33", DA2LITE),
    ("resnet50", 100, 3, "23.71", DA2LITE),
    ("resnet34", 100, 3, "21.3", WEIAICUNZAI),
    ("resnet101", 100, 3, "42.7", WEIAICUNZAI),
    ("resnet20", 10, 3, "0.27", CHENYAOFO),
    ("resnet32", 10, 3, "0.47", CHENYAOFO),
    ("resnet44", 10, 3, "0.66", CHENYAOFO),
    ("resnet56", 10, 3, "0.86", CHENYAOFO),
    ("resnet56", 100, 3, "0.86", OVERHAUL),
    ("resnet32x4", 100, 3, "7.433860", MIRLOHI),
    ("wrn_16_1", 10, 3, "0.2", AT),
    ("wrn_16_2", 10, 3, "0.7", AT),
    ("wrn_16_2", 100, 3, "0.70", OVERHAUL),
    ("wrn_40_1", 10, 3, "0.6", WRN),
    ("wrn_40_2", 10, 3, "2.2", WRN),
    ("resnet8", 10, 3, "0.078042", CHAHAL),
    ("resnet14", 10, 3, "0.175258", CHAHAL),
    ("resnet20", 10, 3, "0.272474", CHAHAL),
    ("resnet32", 10, 3, "0.466906", CHAHAL),
    ("resnet44", 10, 3, "0.661338", CHAHAL),
    ("resnet56", 10, 3, "0.855770", CHAHAL),
    ("resnet110", 10, 3, "1.730714", CHAHAL),
    ("resnet18", 10, 3, "11.173962", CHAHAL),
    ("resnet34", 10, 3, "21.282122", CHAHAL),
    ("resnet50", 10, 3, "23.520842", CHAHAL),
    ("resnet101", 10, 3, "42.512970", CHAHAL),
    ("wrn_16_1", 10, 3, "0.175066", CHAHAL),
    ("wrn_16_2", 10, 3, "0.691674", CHAHAL),
    ("wrn_40_1", 10, 3, "0.563930", CHAHAL),
    ("vgg11", 10, 3, "9.231114", CHAHAL),
    ("vgg13", 10, 3, "9.416010", CHAHAL),
    ("vgg16", 10, 3, "14.728266", CHAHAL),
    ("vgg19", 10, 3, "20.040522", CHAHAL),
    ("vgg16", 10, 3, "14.73", DA2LITE),
    ("vgg19", 10, 3, "20.04", BEARPAW),
    ("vgg19", 100, 3, "20.09", DA2LITE),
]


def parameters(name: str, classes: int, channels: int) -> int:
    with torch.device("meta"):
        return count_parameters(build_model(name, num_classes=classes, channels=channels, size=32))


@pytest.mark.parametrize("name", OWN)
def test_parameters_are_counted_exactly(name):
    assert parameters(name, 100, 3) == EXACT[name]


@pytest.mark.parametrize(("name", "classes", "channels", "millions", "source"), PUBLISHED)
def test_parameters_are_the_published_ones(name, classes, channels, millions, source):
    decimals = len(millions.partition(".")[2])
    assert f"{parameters(name, classes, channels) / 1e6:.{decimals}f}" == millions, source
