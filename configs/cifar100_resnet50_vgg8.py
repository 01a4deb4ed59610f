"""CIFAR-100, resnet50 -> vgg8, with the recipe of the public tables.

Command: python -m kdzoo.bench --benchmark cifar100_resnet50_vgg8 --methods scratch,kd,dkd
Published, last epoch, mean of 5 (CRD): teacher 79.34, scratch 70.36, kd 73.81, at 71.84, fitnet
70.69, pkt 73.01, rkd 71.50. DKD names no beta for this pair: dkd's default, 8, is taken.
"""

_base_ = "./_base_/cifar100_public.py"

student = dict(network=dict(type="vgg8"))
teacher = dict(network=dict(type="resnet50"))
