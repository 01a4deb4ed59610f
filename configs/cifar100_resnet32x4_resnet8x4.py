"""CIFAR-100, resnet32x4 -> resnet8x4, with the recipe of the public tables.

Command: python -m kdzoo.bench --benchmark cifar100_resnet32x4_resnet8x4 --methods scratch,kd,dkd
Published, last epoch, mean of 5 (CRD): teacher 79.42, scratch 72.50, kd 73.33, at 73.44, fitnet
73.50, pkt 73.64, rkd 71.90. Published, best epoch on the test set (DKD): dkd 76.32 with beta = 8.
"""

_base_ = "./_base_/cifar100_public.py"

student = dict(network=dict(type="resnet8x4"))
teacher = dict(network=dict(type="resnet32x4"))
methods = dict(dkd=dict(beta=8.0))
