# Images of your own, a folder per class: fine-tunes MobileNet-v3-Large x0.75 from the image checkpoint in model.init_cfg.checkpoint.
# In a config of your own, set data_root, the classes and model.backbone.num_classes; README.md has an example.
_base_ = [
    '../_base_/models/classifier_dynperceiver_imagenet.py',
    '../_base_/datasets/image_folder.py',
    '../_base_/schedules/adamw_small.py',
    '../_base_/classification_runtime.py',
]
model = dict(
    backbone=dict(
        feature_branch='mobilenet_v3_large', width=0.75, depth_factors=(1, 1, 1, 3), dropout=0.2, num_classes=_base_.num_classes),
    loss=dict(label_smoothing=0.1),
    data_preprocessor=dict(before_norm=[], mixing=None))
max_epochs = 20
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='mmengine.LinearLR', start_factor=0.05, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='mmengine.CosineAnnealingLR', by_epoch=True, begin=1, end=max_epochs, eta_min_ratio=0.01, convert_to_iter_based=True),
]
optim_wrapper = dict(
    constructor='dynperceiver.GroupedOptimWrapperConstructor',
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0, flat_decay_mult=0),
    optimizer=dict(lr=2e-4))
auto_scale_lr = dict(base_batch_size=64)
