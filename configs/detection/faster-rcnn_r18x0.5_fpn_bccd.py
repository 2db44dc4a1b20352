# The backbone-only baseline: the same detector on the CNN alone, with the same budget, data and seed.
_base_ = './faster-rcnn_dynperceiver-r18x0.5_fpn_bccd.py'
model = dict(
    backbone=dict(_delete_=True, type='dynperceiver_det.FeatureBranchBackbone', feature_branch='resnet18', width=0.5))
