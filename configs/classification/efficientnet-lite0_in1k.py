# The backbone-only baseline of dynperceiver-efficientnet-lite0_in1k.py. The published weights without any training:
# python tools/test.py configs/classification/efficientnet-lite0_in1k.py pretrained://efficientnet_lite0
_base_ = ['./dynperceiver-efficientnet-lite0_in1k.py']
model = dict(
    backbone=dict(_delete_=True, type='dynperceiver.StaticTrunk', feature_branch='efficientnet_lite0', num_classes=1000),
    loss=dict(exit_weights=(1, )))
default_hooks = dict(checkpoint=dict(save_best='acc/exit1_top1'))
