# Hooks, logging and TensorBoard for image classification.
_base_ = './default_runtime.py'
custom_imports = dict(imports=['dynperceiver_cls'])
default_scope = 'mmengine'
default_hooks = dict(visualization=dict(type='dynperceiver_cls.DrawPredictionsHook'))
visualizer = dict(type='mmengine.Visualizer')
