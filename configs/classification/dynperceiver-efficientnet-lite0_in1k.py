# ImageNet-1k with EfficientNet-Lite0 and 128 latents; the CNN starts from published weights (make setup installs them), with their pixels.
_base_ = ['./dynperceiver-regnety-800mf_8xb128_in1k.py']
model = dict(
    backbone=dict(feature_branch='efficientnet_lite0'),
    data_preprocessor=dict(mean=[127.0, 127.0, 127.0], std=[128.0, 128.0, 128.0]),
    init_cfg=dict(type='dynperceiver.ImageCheckpoint', checkpoint='pretrained://efficientnet_lite0'))
