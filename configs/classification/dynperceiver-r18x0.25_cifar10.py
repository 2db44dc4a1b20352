# CIFAR-10 enlarged to 64x64, a narrow ResNet-18 with 32 latents: about nine minutes on one CPU core.
_base_ = [
    '../_base_/models/classifier_dynperceiver_small.py',
    '../_base_/datasets/cifar10_jpeg.py',
    '../_base_/schedules/adamw_small.py',
    '../_base_/classification_runtime.py',
]
max_epochs = 12
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
param_scheduler = [
    dict(type='mmengine.LinearLR', start_factor=0.05, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='mmengine.CosineAnnealingLR', by_epoch=True, begin=1, end=max_epochs, eta_min_ratio=0.01, convert_to_iter_based=True),
]
optim_wrapper = dict(
    constructor='dynperceiver.GroupedOptimWrapperConstructor', paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0, flat_decay_mult=0))
input_shape = (64, 64)
