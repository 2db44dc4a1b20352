# The backbone-only baseline: the CNN alone, which the Dyn-Perceiver on it is compared with.
_base_ = './faster-rcnn_dynperceiver-regnety-1.6gf_fpn_1x_coco.py'
model = dict(
    backbone=dict(
        _delete_=True, type='dynperceiver_det.FeatureBranchBackbone', feature_branch='regnet_y_1_6gf',
        frozen_stages=1, norm_eval=True,
        # the feature branch of an image checkpoint: a backbone-only baseline's own, or a Dyn-Perceiver's
        init_cfg=dict(type='dynperceiver.ImageCheckpoint', checkpoint=None)))
