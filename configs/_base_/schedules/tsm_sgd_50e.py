# TSM's schedule: SGD, 50 epochs, steps at 20 and 40, classifiers learn five times faster, gradients clipped at 20.
train_cfg = dict(type='mmengine.EpochBasedTrainLoop', max_epochs=50, val_begin=1, val_interval=1)
val_cfg = dict(type='mmengine.ValLoop')
test_cfg = dict(type='mmengine.TestLoop')
param_scheduler = [dict(type='mmengine.MultiStepLR', begin=0, end=50, by_epoch=True, milestones=[20, 40], gamma=0.1)]
optim_wrapper = dict(
    type='OptimWrapper',
    paramwise_cfg=dict(custom_keys={'backbone.exits': dict(lr_mult=5)}),
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4),
    clip_grad=dict(max_norm=20, norm_type=2))
# (8 GPUs) x (8 clips per GPU)
auto_scale_lr = dict(enable=False, base_batch_size=64)
