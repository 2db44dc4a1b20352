# ImageNet-1k with ResNet-50 x0.375 and 128 latents: a published variant, the full recipe, 300 epochs.
_base_ = [
    '../_base_/models/classifier_dynperceiver_imagenet.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/imagenet_adamw_300e.py',
]
model = dict(
    backbone=dict(feature_branch='resnet50', width=0.375, depth_factors=(1, 1, 1, 1), dropout=0.2, drop_path=0.2))
optim_wrapper = dict(optimizer=dict(lr=6e-4))
