"""Child registries of MMEngine's root registries, with an explicit scope.

Everything here is reachable from any other OpenMMLab project by the prefix ``dynperceiver_det.``, for example
``dict(type='dynperceiver_det.DynPerceiverBackbone', ...)``, whatever the default scope of the config is.
"""

from __future__ import annotations

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import Registry

__all__ = ['DATASETS', 'METRICS', 'MODELS', 'SCOPE']

SCOPE = 'dynperceiver_det'

MODELS = Registry('model', parent=MMENGINE_MODELS, scope=SCOPE)
DATASETS = Registry('dataset', parent=MMENGINE_DATASETS, scope=SCOPE)
METRICS = Registry('metric', parent=MMENGINE_METRICS, scope=SCOPE)
