"""CIFAR-100, resnet50 -> mobilenetv2, with the recipe of the public tables.

Command: python -m kdzoo.bench --benchmark cifar100_resnet50_mobilenetv2 --methods scratch,kd,dkd
Published, last epoch, mean of 5 (CRD): teacher 79.34, scratch 64.60, kd 67.35, at 58.58, fitnet
63.16, pkt 66.52, rkd 64.43. Published, best epoch on the test set (DKD): dkd 70.35 with beta = 8.
"""

_base_ = "./_base_/cifar100_public.py"

student = dict(network=dict(type="mobilenetv2"), recipe=dict(optimizer=dict(lr=0.01)))
teacher = dict(network=dict(type="resnet50"))
methods = dict(dkd=dict(beta=8.0))
