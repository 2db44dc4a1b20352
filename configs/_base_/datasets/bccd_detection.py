# BCCD: 205 / 87 / 72 photos of blood cells of 640x480 (train / val / test), three classes, COCO format, shown at 0.65 of their size.
# Training sees random crops of photos enlarged or reduced around that scale: a latent code summarises the whole image, so that objects
# must on average be as large in training as they are in testing. Validation is on the val photos, tools/test.py on the test photos.
data_root = 'data/bccd/'
source = 'BCCD (MIT licence), https://github.com/Shenggan/BCCD_Dataset, with COCO-format annotations in annotations/'
metainfo = dict(classes=('RBC', 'WBC', 'Platelets'), palette=[(220, 20, 60), (30, 60, 255), (255, 200, 0)])
num_classes = 3
image_scale = (416, 312)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', resize_type='mmdet.Resize', scale=image_scale, ratio_range=(0.8, 1.2), keep_ratio=True),
    dict(type='mmdet.RandomCrop', crop_size=(240, 320)),
    dict(type='mmdet.FilterAnnotations', min_gt_bbox_wh=(12, 12)),  # a cell's rim at the edge of a crop is no cell
    dict(type='mmdet.RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='mmdet.PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.Resize', scale=image_scale, keep_ratio=True),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
dataset = dict(
    type='dynperceiver_det.CocoDataset', data_root=data_root, data_prefix=dict(img='images/'), metainfo=metainfo, source=source)
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(ann_file='annotations/instances_train.json', filter_cfg=dict(filter_empty_gt=True), pipeline=train_pipeline, **dataset))
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(ann_file='annotations/instances_val.json', test_mode=True, pipeline=test_pipeline, **dataset))
test_dataloader = dict(
    batch_size=1,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(ann_file='annotations/instances_test.json', test_mode=True, pipeline=test_pipeline, **dataset))
val_evaluator = dict(type='dynperceiver_det.CocoMetric', ann_file=data_root + 'annotations/instances_val.json', metric='bbox')
test_evaluator = dict(type='dynperceiver_det.CocoMetric', ann_file=data_root + 'annotations/instances_test.json', metric='bbox')
