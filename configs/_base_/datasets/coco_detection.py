# COCO 2017 detection: MMDetection's pipelines, with the scope written out so that they build under any other, on a data set that
# says what is wrong with its files, and scored by pycocotools to the last digit.
_base_ = 'mmdet::_base_/datasets/coco_detection.py'
data_root = 'data/coco/'
source = 'COCO 2017, https://cocodataset.org/#download'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='mmdet.RandomFlip', prob=0.5),
    dict(type='mmdet.PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_sampler=dict(type='mmdet.AspectRatioBatchSampler'),
    dataset=dict(type='dynperceiver_det.CocoDataset', source=source, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(type='dynperceiver_det.CocoDataset', source=source, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='dynperceiver_det.CocoMetric')
test_evaluator = val_evaluator
