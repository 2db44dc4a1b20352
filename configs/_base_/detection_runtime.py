# Hooks, logging and TensorBoard for detection: MMDetection's runtime, with the scope written out so that it builds under any other.
_base_ = 'mmdet::_base_/default_runtime.py'
custom_imports = dict(imports=['dynperceiver_det'], allow_failed_imports=False)
default_scope = 'mmdet'
default_hooks = dict(
    checkpoint=dict(save_best='coco/bbox_mAP', rule='greater', max_keep_ckpts=3),
    sync_buffers=dict(type='mmengine.SyncBuffersHook'),  # where norms learn, processes would be validated with statistics of their own
    visualization=dict(type='mmdet.DetVisualizationHook'))
custom_hooks = [
    dict(type='dynperceiver.ResumableRandomnessHook'),
    dict(type='dynperceiver.NonFiniteLossHook'),
    dict(type='dynperceiver.TestScalarsHook'),
    dict(type='dynperceiver.SkippedSampleHook'),
    dict(type='dynperceiver.ClassNamesHook'),
]
vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = dict(type='mmdet.DetLocalVisualizer', vis_backends=vis_backends)
randomness = dict(seed=0)
# Height and width that tools/get_flops.py counts with
input_shape = (800, 1280)
