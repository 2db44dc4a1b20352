# The main job: Something-Something V1, 8 frames of 224x224, ResNet-50 x0.625 with 128 latents, TSM's data set-up and schedule.
_base_ = [
    '../_base_/models/tsm_dynperceiver_r50.py',
    '../_base_/datasets/sthv1_rawframes_8x224.py',
    '../_base_/schedules/tsm_sgd_50e.py',
    '../_base_/default_runtime.py',
]
