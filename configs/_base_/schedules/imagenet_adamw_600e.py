# The ImageNet recipe of MobileNet-v3: as imagenet_adamw_300e.py, for twice as long.
_base_ = './imagenet_adamw_300e.py'
max_epochs = 600
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='mmengine.LinearLR', start_factor=1e-6, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type='mmengine.CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=20, end=max_epochs, convert_to_iter_based=True),
]
