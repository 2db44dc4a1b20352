# CIFAR-10 enlarged to 64x64, a narrow ResNet-18 with 32 latents: about twelve minutes on one CPU core.
_base_ = [
    '../_base_/models/classifier_dynperceiver_small.py',
    '../_base_/datasets/cifar10_jpeg.py',
    '../_base_/schedules/adamw_images_12e.py',
    '../_base_/classification_runtime.py',
]
input_shape = (64, 64)
