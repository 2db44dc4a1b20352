"""Command lines and start-up shared by the scripts in ``tools/``."""

from dynperceiver_runtime.command_line import run_tool

from .models import load_backbone, load_network
from .options import UsageError, parse_test_args, parse_train_args, read_config, test_config, train_config
from .runner import build_runner, prepare_cpu_processes

__all__ = [
    'UsageError',
    'build_runner',
    'load_backbone',
    'load_network',
    'parse_test_args',
    'parse_train_args',
    'prepare_cpu_processes',
    'read_config',
    'run_tool',
    'test_config',
    'train_config',
]
