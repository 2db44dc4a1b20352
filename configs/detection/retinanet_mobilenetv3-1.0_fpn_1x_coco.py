# The backbone-only baseline: the CNN alone, which the Dyn-Perceiver on it is compared with.
_base_ = './retinanet_dynperceiver-regnety-1.6gf_fpn_1x_coco.py'
model = dict(
    backbone=dict(
        _delete_=True, type='dynperceiver_det.FeatureBranchBackbone', feature_branch='mobilenet_v3_large', width=1.0,
        frozen_stages=1, norm_eval=True,
        # the feature branch of an image checkpoint: a backbone-only baseline's own, or a Dyn-Perceiver's
        init_cfg=dict(type='dynperceiver.ImageCheckpoint', checkpoint=None)))
