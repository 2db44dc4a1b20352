# The embedded demo images: handwritten digits on noise. Made by tools/make_demo_images.py data/demo_images, or by `make demo-images`.
data_root = 'data/demo_images'
dataset_type = 'dynperceiver_cls.ImageFolder'
source = 'tools/make_demo_images.py: run `python tools/make_demo_images.py data/demo_images`'
num_classes = 10

train_pipeline = [
    dict(type='dynperceiver_cls.LoadImage'),
    dict(type='dynperceiver_cls.RandomCrop', size=64, padding=6),
    dict(type='dynperceiver_cls.PackInputs'),
]
test_pipeline = [
    dict(type='dynperceiver_cls.LoadImage'),
    dict(type='dynperceiver_cls.PackInputs'),
]

train_dataloader = dict(
    batch_size=32,
    num_workers=1,
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
    batch_size=100,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='mmengine.DefaultSampler', shuffle=False),
    collate_fn=dict(type='dynperceiver_cls.stack_samples'),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='val'),
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
