# Instance segmentation: MMDetection's Mask R-CNN, 1x schedule.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py', '../_base_/backbones/dynperceiver_regnety-1.6gf.py', '../_base_/datasets/coco_instance.py',
    'mmdet::_base_/schedules/schedule_1x.py', '../_base_/detection_runtime.py',
]
model = dict(
    type='dynperceiver_det.Detector', detector='mmdet.MaskRCNN', backbone=dict(_delete_=True, **_base_.dynperceiver))
