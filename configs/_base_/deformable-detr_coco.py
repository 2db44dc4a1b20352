# MMDetection's Deformable DETR, 50 epochs, as its config stands, with the scope written out so that it builds under any other, on our
# data set, metric and hooks. MMDetection has no separate bases for it.
_base_ = 'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py'
custom_imports = dict(imports=['dynperceiver_det'], allow_failed_imports=False)
scales = [(480, 1333), (512, 1333), (544, 1333), (576, 1333), (608, 1333), (640, 1333), (672, 1333), (704, 1333), (736, 1333), (768, 1333),
          (800, 1333)]
resize = dict(type='RandomChoiceResize', resize_type='mmdet.Resize', scales=scales, keep_ratio=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.RandomFlip', prob=0.5),
    dict(
        type='RandomChoice',
        transforms=[
            [resize],
            [
                dict(resize, scales=[(400, 4200), (500, 4200), (600, 4200)]),
                dict(type='mmdet.RandomCrop', crop_type='absolute_range', crop_size=(384, 600), allow_negative_crop=True),
                resize,
            ],
        ]),
    dict(type='mmdet.PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
source = 'COCO 2017, https://cocodataset.org/#download'
train_dataloader = dict(
    batch_sampler=dict(type='mmdet.AspectRatioBatchSampler'),
    dataset=dict(type='dynperceiver_det.CocoDataset', source=source, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(type='dynperceiver_det.CocoDataset', source=source, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='dynperceiver_det.CocoMetric')
test_evaluator = val_evaluator
default_hooks = dict(
    checkpoint=dict(save_best='coco/bbox_mAP', rule='greater', max_keep_ckpts=3),
    sync_buffers=dict(type='mmengine.SyncBuffersHook'),
    visualization=dict(type='mmdet.DetVisualizationHook'))
custom_hooks = [
    dict(type='dynperceiver.ResumableRandomnessHook'),
    dict(type='dynperceiver.NonFiniteLossHook'),
    dict(type='dynperceiver.TestScalarsHook'),
    dict(type='dynperceiver.SkippedSampleHook'),
]
visualizer = dict(type='mmdet.DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])
randomness = dict(seed=0)
input_shape = (800, 1280)
