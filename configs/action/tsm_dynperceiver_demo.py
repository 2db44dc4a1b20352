# The embedded demo: eight motions of handwritten digits that a single frame cannot tell apart. `make demo` runs it.
_base_ = [
    '../_base_/models/tsm_dynperceiver_r50.py',
    '../_base_/datasets/demo_videos.py',
    '../_base_/schedules/adamw_small.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        feature_branch='resnet18', width=0.25, num_latents=32, depth_factors=(1 / 3, 1 / 3, 1 / 9, 1 / 3), num_classes=8, dropout=0.0))
work_dir = 'work_dirs/demo'
input_shape = (64, 64)
