"""CIFAR-100, resnet32x4 -> shufflenetv2, with the recipe of the public tables.

Command: python -m kdzoo.bench --benchmark cifar100_resnet32x4_shufflenetv2 --methods scratch,kd,dkd
Published, last epoch, mean of 5 (CRD): teacher 79.42, scratch 71.82, kd 74.45, at 72.73, fitnet
73.54, pkt 74.69, rkd 73.21. Published, best epoch on the test set (DKD): dkd 77.07 with beta = 8.
"""

_base_ = "./_base_/cifar100_public.py"

student = dict(network=dict(type="shufflenetv2"), recipe=dict(optimizer=dict(lr=0.01)))
teacher = dict(network=dict(type="resnet32x4"))
methods = dict(dkd=dict(beta=8.0))
