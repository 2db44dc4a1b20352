# Something-Something V1 with the shift from the past only, for online recognition.
_base_ = ['./tsm_dynperceiver.py']
model = dict(backbone=dict(temporal_shift='unidirectional'))
