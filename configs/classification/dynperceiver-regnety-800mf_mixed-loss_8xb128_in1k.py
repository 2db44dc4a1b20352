# The paper's Eq. 3: every early exit divides its weight between the labels and the last exit.
_base_ = ['./dynperceiver-regnety-800mf_8xb128_in1k.py']
model = dict(loss=dict(form='mixed'))
