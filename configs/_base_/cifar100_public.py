"""The recipe of the public CIFAR-100 tables: 240 epochs, batch 64, x 0.1 at 150, 180 and 210; crop and flip.

Sources: Tian, Krishnan and Isola 2020, "Contrastive representation distillation", ICLR,
https://arxiv.org/abs/1910.10699, and its repository RepDistiller; Zhao et al. 2022, "Decoupled knowledge
distillation", CVPR, https://arxiv.org/abs/2203.08679, and its repository mdistiller, which adds dkd's
warm-up of 20 epochs and a beta for each pair. The first reports the last epoch (mean of 5 runs), the second
the best epoch on the test set: their numbers never stand in one column.

Weights: kd alpha 0.9 and T = 4, fitnet 100, at 1000, pkt 30000, rkd 1 x (25 distance + 50 angle): here the
methods' own defaults. A pair's config sets the networks, dkd's beta where mdistiller names one, and the
learning rate 0.01 for MobileNetV2 and ShuffleNet students. Images are normalised by the statistics of the
training images (theirs are constants: 0.5071 0.4867 0.4408 and 0.2675 0.2565 0.2761).

ReffAKD's autoencoder keeps the recipe of its own paper.
"""

recipe = dict(
    epochs=240,
    batch_size=64,
    optimizer=dict(type="SGD", lr=0.05, momentum=0.9, weight_decay=5e-4),
    param_scheduler=[dict(type="MultiStepLR", milestones=[150, 180, 210], gamma=0.1)],
    schedule_epochs=240,
)
data = dict(type="cifar100")
views = dict(crop_padding=4, flip=True)
autoencoder = dict(
    network=dict(type="autoencoder"),
    recipe=dict(
        epochs=200,
        batch_size=256,
        optimizer=dict(lr=0.1),
        param_scheduler=[dict(type="MultiStepLR", milestones=[60, 120, 160], gamma=0.2)],
        schedule_epochs=200,
    ),
)
sources = dict(reffakd=dict(gamma=0.0225))
