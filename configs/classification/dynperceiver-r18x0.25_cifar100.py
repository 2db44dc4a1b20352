# CIFAR-100, all 50,000 training images enlarged to 64x64; otherwise as dynperceiver-r18x0.25_cifar10.py.
_base_ = [
    '../_base_/models/classifier_dynperceiver_small.py',
    '../_base_/datasets/cifar100.py',
    '../_base_/schedules/adamw_images_12e.py',
    '../_base_/classification_runtime.py',
]
model = dict(backbone=dict(num_classes=100))
enlarge = dict(type='dynperceiver_cls.Resize', size=64)
train_pipeline = [*_base_.train_pipeline[:-1], enlarge, _base_.train_pipeline[-1]]
test_pipeline = [*_base_.test_pipeline[:-1], enlarge, _base_.test_pipeline[-1]]
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
calibration_dataloader = val_dataloader
input_shape = (64, 64)
