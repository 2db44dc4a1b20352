# The paper's Table 3: no depthwise convolution before feature-to-latent attention.
_base_ = ['./dynperceiver-regnety-800mf_8xb128_in1k.py']
model = dict(backbone=dict(dwc=False))
