"""Train and test configs with several seeds, and print accuracy (or another metric) of each exit as mean and spread, beside its cost.

  python benchmarks/seeds.py configs/classification/{dynperceiver-r18x0.25,r18x0.25}_cifar10.py --seeds 0 1 2 --jobs 2

Every run goes into work_dirs/seeds/CONFIG/seedN; what is finished is not run again, so that a stopped comparison can be gone on with. The
last checkpoint is tested, on the config's test data.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dynperceiver.analysis import costs_of_config
from dynperceiver.launch import read_config
from dynperceiver.viz import read_exit_accuracies

ROOT = Path(__file__).resolve().parent.parent
MINUTES = 'minutes.txt'
NO_FRACTIONS = ('nll', 'brier')  # metrics that are not fractions of the samples, and not printed in percent


def call(tool: str, log: Path, *arguments: str | Path) -> None:
    """Run a tool of the project on one thread; its output goes into a log."""
    with log.open('w') as file:
        command = [sys.executable, str(ROOT / 'tools' / tool), *map(str, arguments)]
        result = subprocess.run(command, cwd=ROOT, env={**os.environ, 'OMP_NUM_THREADS': '1'}, stdout=file, stderr=subprocess.STDOUT)
    if result.returncode:
        raise SystemExit(f'{" ".join(command)}\nfailed with exit code {result.returncode}; see {log}')


def train_and_test(config: Path, seed: int, folder: Path, metric: str) -> list[float]:
    """A metric of the exits of one run, from its files where it is finished."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MINUTES).is_file():
        start = time.time()
        call('train.py', folder / 'train.log', config, '--seed', str(seed), '--work-dir', folder, '--resume')
        (folder / MINUTES).write_text(f'{(time.time() - start) / 60:.1f}')
    result = folder / 'result.json'
    if not result.is_file():
        checkpoint = (folder / 'last_checkpoint').read_text().strip()
        call('test.py', folder / 'test.log', config, checkpoint, '--work-dir', folder / 'test')
        newest = max((folder / 'test').glob('*/*.json'), key=lambda path: path.stat().st_mtime)
        result.write_text(newest.read_text())
    values = read_exit_accuracies(result, metric)
    print(f'{config.stem} seed {seed}: ' + ' / '.join(f'{scale(metric) * value:.2f}' for value in values), file=sys.stderr, flush=True)
    return values


def scale(metric: str) -> int:
    """By what a metric is multiplied to be read."""
    return 1 if metric in NO_FRACTIONS else 100


def row(config: Path, runs: list[list[float]], metric: str) -> str:
    """A line of the table: mean and standard deviation over the runs, and GMACs, of each exit."""
    cells = []
    for values in zip(*runs, strict=True):
        spread = f' ± {scale(metric) * statistics.stdev(values):.2f}' if len(values) > 1 else ''
        cells.append(f'{scale(metric) * statistics.mean(values):.2f}{spread}')
    gmacs = [f'{1e3 * cost["cost_gmacs"]:.1f}' for cost in costs_of_config(read_config(config))['exits']]
    return f'| `{config.stem}` | {" / ".join(cells)} | {" / ".join(gmacs)} |'


def main() -> None:
    """Parse, run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', type=Path)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='(default: 0 1 2)')
    parser.add_argument('--jobs', type=int, default=1, help='trainings at the same time, each on one thread (default: %(default)s)')
    parser.add_argument('--metric', default='top1', help='what to print, for example top5, ece, brier (default: %(default)s)')
    parser.add_argument('--out-dir', type=Path, default=ROOT / 'work_dirs' / 'seeds', help='(default: work_dirs/seeds)')
    args = parser.parse_args()
    args.configs = [config.resolve() for config in args.configs]  # the tools run in the repository's root
    jobs = [(config, seed) for seed in args.seeds for config in args.configs]
    with ThreadPoolExecutor(args.jobs) as pool:
        folders = [args.out_dir.resolve() / config.stem / f'seed{seed}' for config, seed in jobs]
        results = list(pool.map(lambda job, folder: train_and_test(*job, folder, args.metric), jobs, folders))
    by_config = {config: [result for job, result in zip(jobs, results, strict=True) if job[0] == config] for config in args.configs}
    unit = ' (%)' if scale(args.metric) == 100 else ''
    print(f'{args.metric}{unit} per exit, mean ± standard deviation over seeds {", ".join(map(str, args.seeds))}\n')
    print(f'| config | {args.metric} at the exits | MMACs at the exits |\n| --- | --- | --- |')
    for config, runs in by_config.items():
        print(row(config, runs, args.metric))
    by_name = {config.stem: runs for config, runs in by_config.items()}
    (args.out_dir / f'seeds_{args.metric}.json').write_text(json.dumps(by_name, indent=2) + '\n')


if __name__ == '__main__':
    main()
