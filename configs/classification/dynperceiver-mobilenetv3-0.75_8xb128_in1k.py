# ImageNet-1k with MobileNet-v3-Large x0.75 and 128 latents: a published variant, the full recipe, 600 epochs.
_base_ = [
    '../_base_/models/classifier_dynperceiver_imagenet.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/imagenet_adamw_600e.py',
]
model = dict(backbone=dict(feature_branch='mobilenet_v3_large', width=0.75, depth_factors=(1, 1, 1, 3), dropout=0.2))
