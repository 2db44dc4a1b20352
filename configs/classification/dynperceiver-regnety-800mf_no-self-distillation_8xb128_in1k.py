# The paper's Table 3: the last exit does not teach the others.
_base_ = ['./dynperceiver-regnety-800mf_8xb128_in1k.py']
model = dict(loss=dict(distill_weight=0))
