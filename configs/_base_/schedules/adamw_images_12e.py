# For small image data sets and networks that start from random weights: AdamW, linear warm-up, cosine, no decay of vectors.
_base_ = './adamw_small.py'
max_epochs = 12
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
param_scheduler = [
    dict(type='mmengine.LinearLR', start_factor=0.05, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='mmengine.CosineAnnealingLR', by_epoch=True, begin=1, end=max_epochs, eta_min_ratio=0.01, convert_to_iter_based=True),
]
optim_wrapper = dict(
    constructor='dynperceiver.GroupedOptimWrapperConstructor', paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0, flat_decay_mult=0))
auto_scale_lr = dict(base_batch_size=64)
