"""CIFAR-100, wrn_40_2 -> shufflenetv1, with the recipe of the public tables.

Command: python -m kdzoo.bench --benchmark cifar100_wrn_40_2_shufflenetv1 --methods scratch,kd,dkd
Published, last epoch, mean of 5 (CRD): teacher 75.61, scratch 70.50, kd 74.83, at 73.32, fitnet
73.73, pkt 73.89, rkd 72.21. Published, best epoch on the test set (DKD): dkd 76.70 with beta = 8.
"""

_base_ = "./_base_/cifar100_public.py"

student = dict(network=dict(type="shufflenetv1"), recipe=dict(optimizer=dict(lr=0.01)))
teacher = dict(network=dict(type="wrn_40_2"))
methods = dict(dkd=dict(beta=8.0))
