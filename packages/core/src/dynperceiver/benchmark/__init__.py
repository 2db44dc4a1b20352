"""Everything that looks at a clock, or at memory."""

from .exit_times import measure_exit_ms, time_exits
from .memory import PeakMemory, measure_peak_memory
from .speed import measure_speed, speed_table
from .timing import Crossover, Timing, TimingTable, find_crossover, machine_description, num_torch_threads, time_calls

__all__ = [
    'Crossover',
    'PeakMemory',
    'Timing',
    'TimingTable',
    'find_crossover',
    'machine_description',
    'measure_exit_ms',
    'measure_peak_memory',
    'measure_speed',
    'num_torch_threads',
    'speed_table',
    'time_calls',
    'time_exits',
]
