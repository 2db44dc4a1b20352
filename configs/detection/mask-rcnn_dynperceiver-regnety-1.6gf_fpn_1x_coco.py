# Instance segmentation: MMDetection's Mask R-CNN, 1x schedule.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py', '../_base_/datasets/coco_instance.py',
    'mmdet::_base_/schedules/schedule_1x.py', '../_base_/detection_runtime.py',
]
model = dict(
    type='dynperceiver_det.Detector',
    detector='mmdet.MaskRCNN',
    backbone=dict(
        _delete_=True, type='dynperceiver_det.DynPerceiverBackbone', feature_branch='regnet_y_1_6gf', num_latents=256,
        depth_factors=(1, 1, 1, 1), frozen_stages=1, norm_eval=True,
        init_cfg=dict(type='dynperceiver.ImageCheckpoint', checkpoint=None)))
