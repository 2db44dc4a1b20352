# ImageNet-1k: 1000 classes, training crops of 224x224 px, tested on the centre of images whose shorter edge is 256 px.
# RandAugment, mixup, cutmix and random erasing work on whole batches, in the model's data_preprocessor.
# Folders: train/WNID/*.JPEG and val/WNID/*.JPEG. Where the validation images lie in one folder, add ann_file='meta/val.txt' (lines
# `NAME LABEL`) to the data set of val_dataloader and of test_dataloader.
data_root = 'data/imagenet'
dataset_type = 'dynperceiver_cls.ImageNet'
source = 'ImageNet-1k (ILSVRC 2012 classification), https://image-net.org, after registration'
num_classes = 1000

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

train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='mmengine.DefaultSampler', shuffle=True),
    collate_fn=dict(type='dynperceiver_cls.stack_samples'),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        split='train',
        num_classes=num_classes,
        source=source,
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='mmengine.DefaultSampler', shuffle=False),
    collate_fn=dict(type='dynperceiver_cls.stack_samples'),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        split='val',
        num_classes=num_classes,
        source=source,
        pipeline=test_pipeline,
        test_mode=True))
test_dataloader = val_dataloader

val_evaluator = [
    dict(type='dynperceiver.MultiExitAccuracy'),
    dict(type='dynperceiver.ExitCalibration'),
    dict(type='dynperceiver.ExitAgreement'),
]
test_evaluator = val_evaluator
