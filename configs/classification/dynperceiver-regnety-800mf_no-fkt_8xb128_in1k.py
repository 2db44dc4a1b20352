# The paper's Table 3: no forward knowledge transfer between the exits.
_base_ = ['./dynperceiver-regnety-800mf_8xb128_in1k.py']
model = dict(backbone=dict(fkt=False))
