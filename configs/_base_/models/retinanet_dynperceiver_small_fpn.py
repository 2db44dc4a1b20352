# RetinaNet on a Dyn-Perceiver small enough for two CPU cores, with an FPN of 64 channels.
_base_ = ['./retinanet_dynperceiver_fpn.py', '../backbones/dynperceiver_small.py']
model = dict(
    backbone=_base_.small,
    neck=dict(out_channels=64),
    bbox_head=dict(in_channels=64, feat_channels=64, stacked_convs=2))
