"""Train a model of any task: python tools/train.py CONFIG (see --help)."""

import dynperceiver  # noqa: F401  its fixes for OpenMMLab on today's PyTorch must come before anything is loaded
from dynperceiver.launch import build_runner, parse_train_args, run_tool, train_config


def main() -> None:
    """Parse, build, train."""
    build_runner(train_config(parse_train_args())).train()


if __name__ == '__main__':
    run_tool(main)
