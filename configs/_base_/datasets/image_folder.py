# Images of your own in a folder per class: train/CLASS/*.jpg and val/CLASS/*.jpg, in any common format, folders may have folders.
# Set data_root and num_classes; the training folder says what the classes are, and the validation folder must have the same.
data_root = 'data/my_images'
dataset_type = 'dynperceiver_cls.ImageFolder'
source = 'you: put images into train/CLASS/ and val/CLASS/ there'
num_classes = 2

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
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='mmengine.DefaultSampler', shuffle=True),
    collate_fn=dict(type='dynperceiver_cls.stack_samples'),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='train'),
        source=source,
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='mmengine.DefaultSampler', shuffle=False),
    collate_fn=dict(type='dynperceiver_cls.stack_samples'),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='val'),
        class_folder='train',
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
