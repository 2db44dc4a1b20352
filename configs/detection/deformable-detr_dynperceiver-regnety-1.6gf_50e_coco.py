# A transformer head: MMDetection's Deformable DETR, 50 epochs, on strides 8, 16 and 32. Its data pipelines, optimizer and schedule stay.
_base_ = '../_base_/deformable-detr_coco.py'
model = dict(
    type='dynperceiver_det.Detector',
    detector='mmdet.DeformableDETR',
    backbone=dict(
        _delete_=True, type='dynperceiver_det.DynPerceiverBackbone', feature_branch='regnet_y_1_6gf', num_latents=256,
        depth_factors=(1, 1, 1, 1), out_indices=(1, 2, 3), frozen_stages=1, norm_eval=True,
        init_cfg=dict(type='dynperceiver.ImageCheckpoint', checkpoint=None)))
