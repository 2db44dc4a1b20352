# Something-Something V2, videos decoded by decord.
_base_ = [
    '../_base_/models/tsm_dynperceiver_r50.py',
    '../_base_/datasets/sthv2_videos_8x224.py',
    '../_base_/schedules/tsm_sgd_50e.py',
    '../_base_/default_runtime.py',
]
