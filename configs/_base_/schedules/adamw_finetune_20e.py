# For image data sets of one's own and networks that start from an image checkpoint.
_base_ = './adamw_images_12e.py'
max_epochs = 20
train_cfg = dict(max_epochs=max_epochs, val_interval=1)
param_scheduler = [
    dict(type='mmengine.LinearLR', start_factor=0.05, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='mmengine.CosineAnnealingLR', by_epoch=True, begin=1, end=max_epochs, eta_min_ratio=0.01, convert_to_iter_based=True),
]
optim_wrapper = dict(optimizer=dict(lr=2e-4))
