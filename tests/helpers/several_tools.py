"""Run tools one after the other in one process: python several_tools.py JSON, a list of command lines, each ['tools/train.py', ...].

As one of several processes of ``torch.distributed.run`` it spares them starting anew, and joining each other, for every tool.
"""

from __future__ import annotations

import json
import sys

from tool_runs import run_here

if __name__ == '__main__':
    for command in json.loads(sys.argv[1]):
        run_here(*command)
