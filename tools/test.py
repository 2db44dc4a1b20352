"""Test a checkpoint of any task: python tools/test.py CONFIG CHECKPOINT (see --help)."""

import dynperceiver  # noqa: F401  its fixes for OpenMMLab on today's PyTorch must come before anything is loaded
from dynperceiver.launch import build_runner, parse_test_args, run_tool, test_config


def main() -> None:
    """Parse, build, test."""
    build_runner(test_config(parse_test_args())).test()


if __name__ == '__main__':
    run_tool(main)
