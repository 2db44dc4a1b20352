# Kinetics-400, videos decoded by decord.
_base_ = [
    '../_base_/models/tsm_dynperceiver_r50.py',
    '../_base_/datasets/kinetics400_videos_8x224.py',
    '../_base_/schedules/tsm_sgd_50e.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(num_classes=400))
