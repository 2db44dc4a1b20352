"""What the network costs."""

from ..models import find_network
from .flops import ExitCost, count_exit_costs, count_gmacs, meta_copy
from .latency import (
    Crossover,
    PeakMemory,
    Timing,
    TimingTable,
    find_crossover,
    machine_description,
    measure_peak_memory,
    num_torch_threads,
    time_calls,
)
from .report import cost_table, costs_of_config

__all__ = [
    'Crossover',
    'ExitCost',
    'PeakMemory',
    'Timing',
    'TimingTable',
    'cost_table',
    'costs_of_config',
    'count_exit_costs',
    'count_gmacs',
    'find_crossover',
    'find_network',
    'machine_description',
    'measure_peak_memory',
    'meta_copy',
    'num_torch_threads',
    'time_calls',
]
