"""CIFAR-100, resnet32x4 -> shufflenetv1, with the recipe of the public tables.

Command: python -m kdzoo.bench --benchmark cifar100_resnet32x4_shufflenetv1 --methods scratch,kd,dkd
Published, last epoch, mean of 5 (CRD): teacher 79.42, scratch 70.50, kd 74.07, at 71.73, fitnet
73.59, pkt 74.10, rkd 72.28. Published, best epoch on the test set (DKD): dkd 76.45 with beta = 8.
"""

_base_ = "./_base_/cifar100_public.py"

student = dict(network=dict(type="shufflenetv1"), recipe=dict(optimizer=dict(lr=0.01)))
teacher = dict(network=dict(type="resnet32x4"))
methods = dict(dkd=dict(beta=8.0))
