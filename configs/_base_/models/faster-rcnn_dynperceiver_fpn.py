# Faster R-CNN on FPN on a Dyn-Perceiver (RegNetY-1.6GF, 256 latents).
_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py', '../backbones/dynperceiver_regnety-1.6gf.py']
model = dict(
    type='dynperceiver_det.Detector',  # fills neck.in_channels from the backbone
    detector='mmdet.FasterRCNN',
    backbone=dict(_delete_=True, **_base_.dynperceiver))
