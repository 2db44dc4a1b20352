# EfficientNet-Lite0 fine-tuned from its ImageNet weights: the network that lean exits are grafted onto by tools/graft.py.
_base_ = [
    '../_base_/models/efficientnet-lite0_cls.py',
    '../_base_/datasets/caltech100.py',
    '../_base_/schedules/adamw_images_12e.py',
    '../_base_/classification_runtime.py',
]
max_epochs = 5
model = dict(backbone=dict(num_classes=100, frozen_stages=2), loss=dict(label_smoothing=0.1))
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
param_scheduler = [
    dict(type='mmengine.LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=100),
    dict(type='mmengine.CosineAnnealingLR', by_epoch=True, begin=0, end=max_epochs, eta_min_ratio=0.01, convert_to_iter_based=True),
]
optim_wrapper = dict(optimizer=dict(lr=1e-3))
default_hooks = dict(checkpoint=dict(save_best='acc/exit1_top1'))
