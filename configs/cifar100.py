"""CIFAR-100 (ResNet-50 -> ResNet-18), the ReffAKD paper's first pair under Table 7.

Command: python -m kdzoo.bench --benchmark cifar100 --methods table8 --data-root DIR
Data: 50,000 + 10,000 images; crop 32 with padding 4, flip, rotation, as the paper's notebooks do.
gamma = 0.0225 is the paper's for this data set.
"""

_base_ = "./_base_/table7.py"

data = dict(type="cifar100")
views = dict(crop_padding=4, flip=True, rotation=15.0)
student = dict(network=dict(type="resnet18"))
teacher = dict(network=dict(type="resnet50"))
sources = dict(reffakd=dict(gamma=0.0225))
