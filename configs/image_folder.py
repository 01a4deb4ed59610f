"""A folder of pictures of your own at 64x64 (resnet20 -> resnet8); another pair by --teacher and --student.

Command: python -m kdzoo.bench --benchmark image_folder --methods scratch,kd,reffakd --data-root DIR
Data: DIR/train/CLASS and DIR/test/CLASS (or val/), pictures of any size and mode; other sizes by
--data image_folder:size=96. Crop with padding 8, flip and rotation.
Recipe: Table 7 with 100 epochs and batch 64, the learning rate scaled with the batch (0.1 * 64 / 256).
"""

_base_ = "./_base_/table7.py"

data = dict(type="image_folder", size=64)
views = dict(crop_padding=8, flip=True, rotation=15.0)
student = dict(network=dict(type="resnet8"))
teacher = dict(network=dict(type="resnet20"))
recipe = dict(epochs=100, batch_size=64, optimizer=dict(lr=0.025))
