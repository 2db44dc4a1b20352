# The paper's Table 3: no token mixers; all four stages keep 128 latents.
_base_ = ['./dynperceiver-regnety-800mf_8xb128_in1k.py']
model = dict(backbone=dict(token_mixers=False))
