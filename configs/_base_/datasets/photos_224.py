# Photos: training crops of 224x224 px, tested on the centre of images whose shorter edge is 256 px.
_base_ = './image_loaders.py'
train_pipeline = [
    dict(type='dynperceiver_cls.LoadImage'),
    dict(type='dynperceiver_cls.RandomResizedCrop', size=224, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), interpolation='bicubic'),
    dict(type='dynperceiver_cls.RandomFlip', prob=0.5),
    dict(type='dynperceiver_cls.PackInputs'),
]
test_pipeline = [
    dict(type='dynperceiver_cls.LoadImage'),
    dict(type='dynperceiver_cls.Resize', short_edge=256, interpolation='bicubic'),
    dict(type='dynperceiver_cls.CenterCrop', size=224),
    dict(type='dynperceiver_cls.PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
calibration_dataloader = val_dataloader
