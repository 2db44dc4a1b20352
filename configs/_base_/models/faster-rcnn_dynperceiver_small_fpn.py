# Faster R-CNN on a Dyn-Perceiver small enough for two CPU cores, with an FPN of 64 channels.
_base_ = ['./faster-rcnn_dynperceiver_fpn.py', '../backbones/dynperceiver_small.py']
model = dict(
    backbone=_base_.small,
    neck=dict(out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64),
    roi_head=dict(bbox_roi_extractor=dict(out_channels=64), bbox_head=dict(in_channels=64, fc_out_channels=256)),
    train_cfg=dict(rpn_proposal=dict(nms_pre=500, max_per_img=300), rcnn=dict(sampler=dict(num=128))),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=300)))
