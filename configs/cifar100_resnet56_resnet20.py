"""CIFAR-100, resnet56 -> resnet20, with the recipe of the public tables.

Command: python -m kdzoo.bench --benchmark cifar100_resnet56_resnet20 --methods scratch,kd,dkd
Published, last epoch, mean of 5 (CRD): teacher 72.34, scratch 69.06, kd 70.66, at 70.55, fitnet
69.21, pkt 70.34, rkd 69.61. Published, best epoch on the test set (DKD): dkd 71.97 with beta = 2.
"""

_base_ = "./_base_/cifar100_public.py"

student = dict(network=dict(type="resnet20"))
teacher = dict(network=dict(type="resnet56"))
methods = dict(dkd=dict(beta=2.0))
