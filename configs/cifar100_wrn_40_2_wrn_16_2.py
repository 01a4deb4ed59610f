"""CIFAR-100, wrn_40_2 -> wrn_16_2, with the recipe of the public tables.

Command: python -m kdzoo.bench --benchmark cifar100_wrn_40_2_wrn_16_2 --methods scratch,kd,dkd
Published, last epoch, mean of 5 (CRD): teacher 75.61, scratch 73.26, kd 74.92, at 74.08, fitnet
73.58, pkt 74.54, rkd 73.35. Published, best epoch on the test set (DKD): dkd 76.24 with beta = 6.
"""

_base_ = "./_base_/cifar100_public.py"

student = dict(network=dict(type="wrn_16_2"))
teacher = dict(network=dict(type="wrn_40_2"))
methods = dict(dkd=dict(beta=6.0))
