# What all image data sets have in common: how batches are made, and what is measured.
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='mmengine.DefaultSampler', shuffle=True),
    collate_fn=dict(type='dynperceiver_cls.stack_samples'))
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='mmengine.DefaultSampler', shuffle=False),
    collate_fn=dict(type='dynperceiver_cls.stack_samples'),
    dataset=dict(test_mode=True))
test_dataloader = val_dataloader
calibration_dataloader = val_dataloader  # tools/calibrate.py: data that neither train nor test

val_evaluator = [
    dict(type='dynperceiver.MultiExitAccuracy'),
    dict(type='dynperceiver.ExitCalibration'),
    dict(type='dynperceiver.ExitAgreement'),
]
test_evaluator = val_evaluator
