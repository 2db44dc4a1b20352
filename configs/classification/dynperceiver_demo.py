# The embedded demo: handwritten digits on noise, from easy to hard. `make demo-images` runs it.
_base_ = [
    '../_base_/models/classifier_dynperceiver_small.py',
    '../_base_/datasets/demo_images.py',
    '../_base_/schedules/adamw_small.py',
    '../_base_/classification_runtime.py',
]
work_dir = 'work_dirs/demo_images'
input_shape = (64, 64)
