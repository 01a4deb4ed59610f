"""CIFAR-100, wrn_40_2 -> wrn_40_1, with the recipe of the public tables.

Command: python -m kdzoo.bench --benchmark cifar100_wrn_40_2_wrn_40_1 --methods scratch,kd,dkd
Published, last epoch, mean of 5 (CRD): teacher 75.61, scratch 71.98, kd 73.54, at 72.77, fitnet
72.24, pkt 73.45, rkd 72.22. Published, best epoch on the test set (DKD): dkd 74.81 with beta = 6.
"""

_base_ = "./_base_/cifar100_public.py"

student = dict(network=dict(type="wrn_40_1"))
teacher = dict(network=dict(type="wrn_40_2"))
methods = dict(dkd=dict(beta=6.0))
