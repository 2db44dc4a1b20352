"""Run a task from end to end on generated data: generate, train, test, plot; `make demo` and `make demo-images` call this."""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from dynperceiver_runtime.command_line import DEBUG_FLAG, DEBUG_HELP, DEBUG_VARIABLE, run_tool
from dynperceiver_runtime.files import make_folders

ROOT = Path(__file__).resolve().parent.parent
TASKS = {  # config, tool that makes the data, its folder, what it is
    'action': ('configs/action/tsm_dynperceiver_demo.py', 'tools/make_demo_clips.py', 'data/demo', 'clips of moving handwritten digits'),
    'images': ('configs/classification/dynperceiver_demo.py', 'tools/make_demo_images.py', 'data/demo_images', 'digits on noise'),
}


def bar(done: int, total: int, width: int = 24) -> str:
    """A progress bar in characters."""
    filled = round(width * done / total)
    return f'[{"#" * filled}{"." * (width - filled)}]'


class TrainingDisplay:
    """Turns MMEngine's log lines into one line that moves."""

    def __init__(self) -> None:
        self.start, self.accuracy, self.shown = time.time(), 'not measured yet', ''

    def feed(self, line: str) -> None:
        """Take a log line."""
        exits = re.findall(r'acc/exit\d+_top1: ([\d.]+)', line)
        if exits:
            self.accuracy = ' / '.join(f'{100 * float(value):.0f}' for value in exits) + ' %'
        step = re.search(r'Epoch\(train\)\s+\[(\d+)\]\[(\d+)/(\d+)\]', line)
        total = re.search(r'\bmax_epochs ?= ?(\d+)', line)  # of the logged config; train_cfg, which counts, comes last
        if total:
            self.epochs = int(total[1])
        if step and hasattr(self, 'epochs'):
            epoch, done, of = (int(number) for number in step.groups())
            steps, everything = (epoch - 1) * of + done, self.epochs * of
            left = (time.time() - self.start) * (everything - steps) / steps
            self.show(f'      {bar(steps, everything)} epoch {epoch}/{self.epochs}, top-1 per exit: {self.accuracy}, {left:.0f} s left')

    def show(self, text: str) -> None:
        """Print, over the last line on a terminal."""
        if sys.stdout.isatty():
            print('\r' + text.ljust(len(self.shown)), end='', flush=True)
            self.shown = text
        elif text.split(',')[0].split('epoch')[1] != self.shown:
            print(text, flush=True)
            self.shown = text.split(',')[0].split('epoch')[1]


def run(title: str, command: list[str], log: Path, display: TrainingDisplay | None = None) -> None:
    """Run a command of the project, its output in a log file; a failure ends the demo with the log's last lines."""
    print(f'{title}\n      $ python {" ".join(command)}', flush=True)
    start, python = time.time(), [sys.executable, *command]
    env = {'OMP_WAIT_POLICY': 'PASSIVE', **os.environ}  # threads that wait would take the processors from those that read clips
    pipe = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with open(log, 'w', buffering=1) as file, subprocess.Popen(python, cwd=ROOT, env=env, **pipe) as process:
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            if display is not None:
                display.feed(line)
    print(end='\n' * (display is not None and sys.stdout.isatty()))
    if process.returncode:
        tail = ''.join(log.read_text().splitlines(keepends=True)[-20:])
        sys.exit(f'{tail}\nerror: this step failed (exit code {process.returncode}); the whole output is in {log}')
    print(f'      done in {time.time() - start:.0f} s', flush=True)


def shown(path: Path) -> Path:
    """A path as people would type it."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def main() -> None:
    """Run the four steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--task', choices=list(TASKS), default='action', help='task to run (default: %(default)s)')
    parser.add_argument('--work-dir', type=Path, help='output folder (default: work_dirs/demo, for images work_dirs/demo_images)')
    parser.add_argument('--data', help='folder of the data (default: data/demo, for images data/demo_images)')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='settings of the config to override')
    parser.add_argument(DEBUG_FLAG, action='store_true', help=DEBUG_HELP)
    args = parser.parse_args()
    os.environ.update({DEBUG_VARIABLE: '1'} if args.debug else {})  # the steps inherit it
    config, maker, data, what = TASKS[args.task]
    work_dir, overrides = args.work_dir or Path('work_dirs', Path(data).name), list(args.cfg_options)
    if args.data:
        data = args.data
        overrides += [f'{split}_dataloader.dataset.data_root={data}' for split in ('train', 'val', 'test')]
    work = make_folders((ROOT / work_dir).resolve())
    start, num_steps = time.time(), 5 if args.task == 'images' else 4
    options = ['--work-dir', str(work_dir)] + (['--cfg-options', *overrides] if overrides else [])
    run(f'[1/{num_steps}] {what}', [maker, data], work / 'data.log')
    display = TrainingDisplay()
    run(f'[2/{num_steps}] training', ['tools/train.py', config, *options], work / 'train.log', display)
    checkpoint = shown(Path((work / 'last_checkpoint').read_text().strip()))
    run(f'[3/{num_steps}] test on digits never seen', ['tools/test.py', config, str(checkpoint), *options], work / 'test.log')
    result = shown(max(work.glob('*/*.json'), key=lambda path: path.stat().st_mtime))
    picture = shown(work / 'accuracy_vs_gmacs.png')
    run(f'[4/{num_steps}] picture', ['tools/plot.py', str(picture), f'{config}={result}', '--labels', 'demo'], work / 'plot.log')
    print(re.sub('^.*?: ', '      ', (work / 'plot.log').read_text().strip().splitlines()[-1]))
    results = {'checkpoint': checkpoint, 'log': work / 'train.log', 'picture': picture, 'data': ROOT / data / 'overview.png'}
    if args.task == 'images':
        command = ['tools/vis_exits.py', config, str(checkpoint), '--out-dir', str(work_dir), *options[2:]]
        run('[5/5] easy and hard images, and where the network looks', command, work / 'vis.log')
        results |= {'gallery': work / 'gallery.png', 'attention': work / 'attention.png'}
    for name, path in results.items():
        print(f'{name:>10}: {shown(path)}')
    print(f'done in {time.time() - start:.0f} s')


if __name__ == '__main__':
    run_tool(main)
