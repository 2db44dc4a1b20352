# CIFAR-100, the version for Python: 100 classes, 50,000 + 10,000 images of 32x32 px; everything else as CIFAR-10.
_base_ = './cifar10.py'
dataset_type = 'dynperceiver_cls.CIFAR100'
source = 'CIFAR-100 python version (A. Krizhevsky), https://www.cs.toronto.edu/~kriz/cifar.html'
num_classes = 100

train_dataloader = dict(dataset=dict(type=dataset_type, source=source))
val_dataloader = dict(dataset=dict(type=dataset_type, source=source))
test_dataloader = val_dataloader
calibration_dataloader = val_dataloader
