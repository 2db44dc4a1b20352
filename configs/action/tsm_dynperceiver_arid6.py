# Six human actions in the dark (ARID-6), official split, a narrow ResNet-18 on 8 difference images of 64x80.
_base_ = [
    '../_base_/models/tsm_dynperceiver_r50.py',
    '../_base_/datasets/arid6_videos.py',
    '../_base_/schedules/adamw_small.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        feature_branch='resnet18', width=0.25, num_latents=32, depth_factors=(1 / 3, 1 / 3, 1 / 9, 1 / 3), num_classes=6, dropout=0.2),
    loss=dict(label_smoothing=0.1))
max_epochs = 40
optim_wrapper = dict(optimizer=dict(lr=1e-3))
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
param_scheduler = [
    dict(type='mmengine.LinearLR', start_factor=0.05, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type='mmengine.CosineAnnealingLR', by_epoch=True, begin=5, end=max_epochs, eta_min_ratio=0.01, convert_to_iter_based=True),
]
# With 10 steps per epoch single epochs differ much: test the average over the last hundred steps.
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='mmengine.EMAHook', momentum=0.01, update_buffers=True, begin_epoch=5),
    dict(type='dynperceiver.SyncAveragedBuffersHook'),
]
input_shape = (64, 80)
