# ImageNet-1k with RegNetY-800MF and 128 latents: a published variant, the full recipe, 300 epochs.
_base_ = [
    '../_base_/models/classifier_dynperceiver_imagenet.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/imagenet_adamw_300e.py',
]
