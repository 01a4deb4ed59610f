"""Table 7 of the ReffAKD paper (Doshi and Kim 2024): one recipe for every student, teacher and autoencoder,
unless a benchmark's config says otherwise of its teacher or autoencoder.

A section's own `recipe` changes single entries of this one. Milestones and other lengths of a schedule are
written for `schedule_epochs` and scaled to the epochs that are asked for.
"""

recipe = dict(
    epochs=200,
    batch_size=256,
    optimizer=dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=5e-4),
    param_scheduler=[dict(type="MultiStepLR", milestones=[60, 120, 160], gamma=0.2)],
    schedule_epochs=200,
)
autoencoder = dict(network=dict(type="autoencoder"))
