# The paper's Table 2: no early exit learns, and nothing is transferred or distilled; only exit 4 counts.
_base_ = ['./dynperceiver-regnety-800mf_8xb128_in1k.py']
model = dict(backbone=dict(fkt=False), loss=dict(exit_weights=(0, 0, 0, 1), distill_weight=0))
