# CIFAR-10 in the format of its authors, all 50,000 training images enlarged to 64x64; otherwise as dynperceiver-r18x0.25_cifar10.py.
_base_ = [
    '../_base_/models/classifier_dynperceiver_small.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/adamw_small.py',
    '../_base_/classification_runtime.py',
]
enlarge = dict(type='dynperceiver_cls.Resize', size=64)
train_pipeline = [*_base_.train_pipeline[:-1], enlarge, _base_.train_pipeline[-1]]
test_pipeline = [*_base_.test_pipeline[:-1], enlarge, _base_.test_pipeline[-1]]
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
max_epochs = 12
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
param_scheduler = [
    dict(type='mmengine.LinearLR', start_factor=0.05, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='mmengine.CosineAnnealingLR', by_epoch=True, begin=1, end=max_epochs, eta_min_ratio=0.01, convert_to_iter_based=True),
]
optim_wrapper = dict(
    constructor='dynperceiver.GroupedOptimWrapperConstructor', paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0, flat_decay_mult=0))
input_shape = (64, 64)
