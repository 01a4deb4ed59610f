"""Embedded 8x8 digits at 32x32 (resnet20 -> lenet5): minutes on a laptop, and too small to rank anything.

Command: python -m kdzoo.bench --methods scratch,dkd,reffakd
Data: scikit-learn's 1,797 digits; one test image is 0.3 points.
Recipe: Table 7 with 40 epochs and batch 64, the learning rate scaled with the batch (0.1 * 64 / 256): at 0.1
dkd diverges. Rotation, but no flip: a mirrored 2 is no 2.
"""

_base_ = "./_base_/table7.py"

data = dict(type="digits")
views = dict(rotation=15.0)
student = dict(network=dict(type="lenet5"))
recipe = dict(epochs=40, batch_size=64, optimizer=dict(lr=0.025))
teacher = dict(network=dict(type="resnet20"), recipe=dict(epochs=20))
autoencoder = dict(recipe=dict(epochs=40))
