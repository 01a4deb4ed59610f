"""CIFAR-100, vgg13 -> vgg8, with the recipe of the public tables.

Command: python -m kdzoo.bench --benchmark cifar100_vgg13_vgg8 --methods scratch,kd,dkd
Published, last epoch, mean of 5 (CRD): teacher 74.64, scratch 70.36, kd 72.98, at 71.43, fitnet
71.02, pkt 72.88, rkd 71.48. Published, best epoch on the test set (DKD): dkd 74.68 with beta = 6.
"""

_base_ = "./_base_/cifar100_public.py"

student = dict(network=dict(type="vgg8"))
teacher = dict(network=dict(type="vgg13"))
methods = dict(dkd=dict(beta=6.0))
