"""CIFAR-100, resnet110 -> resnet20, with the recipe of the public tables.

Command: python -m kdzoo.bench --benchmark cifar100_resnet110_resnet20 --methods scratch,kd,dkd
Published, last epoch, mean of 5 (CRD): teacher 74.31, scratch 69.06, kd 70.67, at 70.22, fitnet
68.99, pkt 70.25, rkd 69.25. DKD names no beta for this pair: dkd's default, 8, is taken.
"""

_base_ = "./_base_/cifar100_public.py"

student = dict(network=dict(type="resnet20"))
teacher = dict(network=dict(type="resnet110"))
