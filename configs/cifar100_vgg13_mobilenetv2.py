"""CIFAR-100, vgg13 -> mobilenetv2, with the recipe of the public tables.

Command: python -m kdzoo.bench --benchmark cifar100_vgg13_mobilenetv2 --methods scratch,kd,dkd
Published, last epoch, mean of 5 (CRD): teacher 74.64, scratch 64.60, kd 67.37, at 59.40, fitnet
64.14, pkt 67.13, rkd 64.52. Published, best epoch on the test set (DKD): dkd 69.71 with beta = 6.
"""

_base_ = "./_base_/cifar100_public.py"

student = dict(network=dict(type="mobilenetv2"), recipe=dict(optimizer=dict(lr=0.01)))
teacher = dict(network=dict(type="vgg13"))
methods = dict(dkd=dict(beta=6.0))
