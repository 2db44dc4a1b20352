# The ImageNet recipe: AdamW, linear warm-up over 20 epochs and cosine to 1e-6, both per step, no clipping, averaged weights, fp32.
# It brings the runtime with it, since averaging the weights is one of its hooks.
_base_ = '../classification_runtime.py'
max_epochs = 300
train_cfg = dict(type='mmengine.EpochBasedTrainLoop', max_epochs=max_epochs, val_begin=1, val_interval=1)
val_cfg = dict(type='mmengine.ValLoop')
test_cfg = dict(type='mmengine.TestLoop')
param_scheduler = [
    dict(type='mmengine.LinearLR', start_factor=1e-6, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type='mmengine.CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=20, end=max_epochs, convert_to_iter_based=True),
]
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='dynperceiver.GroupedOptimWrapperConstructor',
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0, flat_decay_mult=0),
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05))
# (8 GPUs) x (128 images per GPU)
auto_scale_lr = dict(enable=False, base_batch_size=1024)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='mmengine.EMAHook', ema_type='mmengine.ExponentialMovingAverage', momentum=1e-4, update_buffers=True),
    dict(type='dynperceiver.SyncAveragedBuffersHook'),
]
default_hooks = dict(logger=dict(interval=100))
log_processor = dict(window_size=100)
