"""From a trained network to one that is served: freeze, then an engine, or an exported folder."""

from .engines import ENGINES
from .fingerprints import fingerprint_of_network
from .freezing import FreezeError, FrozenNetwork, freeze
from .runner import DynamicRunner
from .torch_engine import TorchEngine

__all__ = ['ENGINES', 'DynamicRunner', 'FreezeError', 'FrozenNetwork', 'TorchEngine', 'fingerprint_of_network', 'freeze']
