"""CIFAR-100, resnet110 -> resnet32, with the recipe of the public tables.

Command: python -m kdzoo.bench --benchmark cifar100_resnet110_resnet32 --methods scratch,kd,dkd
Published, last epoch, mean of 5 (CRD): teacher 74.31, scratch 71.14, kd 73.08, at 72.31, fitnet
71.06, pkt 72.61, rkd 71.82. Published, best epoch on the test set (DKD): dkd 74.11 with beta = 2.
"""

_base_ = "./_base_/cifar100_public.py"

student = dict(network=dict(type="resnet32"))
teacher = dict(network=dict(type="resnet110"))
methods = dict(dkd=dict(beta=2.0))
