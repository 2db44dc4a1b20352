"""Command lines and start-up shared by the scripts in ``tools/``."""

from dynperceiver_runtime.command_line import run_tool

from .answers import answer_samples, collect_answers, load_sample, network_of
from .calibration import Calibration, build_calibration
from .models import load_backbone, load_network
from .options import UsageError, parse_test_args, parse_train_args, read_config, test_config, train_config
from .runner import build_runner, prepare_cpu_processes

__all__ = [
    'Calibration',
    'UsageError',
    'answer_samples',
    'build_calibration',
    'build_runner',
    'collect_answers',
    'load_backbone',
    'load_network',
    'load_sample',
    'network_of',
    'parse_test_args',
    'parse_train_args',
    'prepare_cpu_processes',
    'read_config',
    'run_tool',
    'test_config',
    'train_config',
]
