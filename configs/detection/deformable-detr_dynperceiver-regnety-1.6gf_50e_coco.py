# A transformer head: MMDetection's Deformable DETR, 50 epochs, on strides 8, 16 and 32. Its data pipelines, optimizer and schedule stay.
_base_ = ['../_base_/deformable-detr_coco.py', '../_base_/backbones/dynperceiver_regnety-1.6gf.py']
model = dict(
    type='dynperceiver_det.Detector',
    detector='mmdet.DeformableDETR',
    backbone=dict(_delete_=True, **_base_.dynperceiver, out_indices=(1, 2, 3)))
