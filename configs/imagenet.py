"""ImageNet's layout at 224x224, streamed (pretrained ResNet-34 -> ResNet-18): the usual pair and recipe.

Command: python -m kdzoo.bench --benchmark imagenet --methods scratch,kd,dkd --data-root DIR
Data: DIR/train/CLASS and DIR/val/CLASS; pictures stay in their files, and workers decode them (--workers).
The first start reads all of them once, for the hash of their contents; later ones only what has changed.
Teacher: torchvision's published weights, downloaded at the first start and not trained further; for classes
other than ImageNet's train it: --teacher-epochs 100.
Recipe: the public one for this pair, 100 epochs of batch 512, lr 0.2, x 0.1 after 30, 60 and 90, weight decay
1e-4; kd with alpha 0.5 and T = 1, dkd with beta 0.5, T = 1 and one epoch of warm-up (Zhao et al. 2022,
repository mdistiller, configs/imagenet/r34_r18).
"""

data = dict(type="image_folder", size=224, stream=True)
views = dict(crop_scale=0.08, flip=True)
student = dict(network=dict(type="torchvision:resnet18"))
teacher = dict(network=dict(type="torchvision:resnet34", pretrained=True), recipe=dict(epochs=0))
autoencoder = dict(
    network=dict(type="autoencoder"),
    recipe=dict(batch_size=256, optimizer=dict(lr=0.1, weight_decay=5e-4)),
)
recipe = dict(
    epochs=100,
    batch_size=512,
    optimizer=dict(type="SGD", lr=0.2, momentum=0.9, weight_decay=1e-4),
    param_scheduler=[dict(type="MultiStepLR", milestones=[30, 60, 90], gamma=0.1)],
    schedule_epochs=100,
)
methods = dict(
    kd=dict(alpha=0.5, temperature=1.0),
    dkd=dict(beta=0.5, temperature=1.0, warmup=1),
)
