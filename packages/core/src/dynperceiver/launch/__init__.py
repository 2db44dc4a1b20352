"""Command lines and start-up shared by the scripts in ``tools/``."""

from dynperceiver_runtime.command_line import run_tool

from .answers import answer_samples, collect_answers, load_sample, network_of
from .arguments import UsageError, add_shape, check_at_least, check_output, image_size, tool_parser
from .calibration import Calibration, build_calibration
from .configs import checkpoint_config, read_config
from .models import load_backbone, load_network
from .options import parse_test_args, parse_train_args, test_config, train_config
from .runner import build_runner, prepare_cpu_processes
from .tasks import TaskSupport, TestTimeAugmentation, register_task, task_of

__all__ = [
    'Calibration',
    'TaskSupport',
    'TestTimeAugmentation',
    'UsageError',
    'add_shape',
    'answer_samples',
    'build_calibration',
    'build_runner',
    'check_at_least',
    'check_output',
    'checkpoint_config',
    'collect_answers',
    'image_size',
    'load_backbone',
    'load_network',
    'load_sample',
    'network_of',
    'parse_test_args',
    'parse_train_args',
    'prepare_cpu_processes',
    'read_config',
    'register_task',
    'run_tool',
    'task_of',
    'test_config',
    'tool_parser',
    'train_config',
]
