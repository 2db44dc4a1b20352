# All of training and testing on 104 COCO photos in a few minutes on two CPU cores.
_base_ = [
    '../_base_/models/retinanet_dynperceiver_small_fpn.py', '../_base_/datasets/coco_mini_detection.py',
    '../_base_/schedules/detection_small.py', '../_base_/detection_runtime.py',
]
input_shape = (320, 320)
