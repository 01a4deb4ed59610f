"""Tiny ImageNet at 64x64 (ResNet-50 -> ResNet-18), the ReffAKD paper's second pair under Table 7.

Command: python -m kdzoo.bench --benchmark tiny_imagenet --methods table8 --data-root DIR
Data: 100,000 + 10,000 images of 200 classes; flip and rotation, as the notebooks do. The networks keep
the notebooks' head at 64 pixels: 4x4 average pooling leaves 2x2 cells.
gamma = 0.0225 is the paper's for this data set.
"""

_base_ = "./_base_/table7.py"

data = dict(type="tiny_imagenet")
views = dict(flip=True, rotation=15.0)
student = dict(network=dict(type="resnet18"))
teacher = dict(network=dict(type="resnet50"))
sources = dict(reffakd=dict(gamma=0.0225))
