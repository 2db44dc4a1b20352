"""Draw the accuracy of each exit against its cost: python tools/plot.py OUT.png CONFIG=RESULT.json [CONFIG=RESULT.json ...].

RESULT.json is the result that tools/test.py writes to its work dir; each pair becomes a line of the plot.
"""

import logging
from pathlib import Path

import dynperceiver  # noqa: F401  its fixes for OpenMMLab on today's PyTorch must come first
from dynperceiver.analysis import costs_of_config
from dynperceiver.launch import UsageError, add_shape, image_size, read_config, run_tool, tool_parser
from dynperceiver.viz import plot_exit_tradeoff, read_exit_accuracies


def main() -> None:
    """Parse, read, draw."""
    parser = tool_parser(__doc__)
    parser.add_argument('out', metavar='OUT.png', type=Path, help='file to write the picture to')
    parser.add_argument('pairs', metavar='CONFIG=RESULT.json', nargs='+', help='a config and its test result')
    parser.add_argument('--metric', choices=['top1', 'top5', 'mean_class'], default='top1', help='accuracy to draw (default: %(default)s)')
    add_shape(parser)
    parser.add_argument('--labels', nargs='+', help='labels of the lines (default: names of the configs)')
    parser.add_argument('--title', default='Accuracy of each exit against its cost')
    args = parser.parse_args()
    if any('=' not in pair for pair in args.pairs):
        parser.error('each pair is CONFIG=RESULT.json, for example configs/action/tsm_dynperceiver_demo.py=work_dirs/demo/.../result.json')
    if args.labels and len(args.labels) != len(args.pairs):
        parser.error(f'{len(args.labels)} labels were given for {len(args.pairs)} pairs; give one each')
    logging.disable(logging.WARNING)
    series, chance, sample = {}, None, 'image'
    for number, pair in enumerate(args.pairs):
        config, result = pair.split('=', 1)
        cfg = read_config(config)
        report = costs_of_config(cfg, image_size(args.shape, cfg))
        accuracies = read_exit_accuracies(result, args.metric)
        if len(accuracies) != len(report['exits']):
            exits = f'{result} has {len(accuracies)} exits, the model of {config} has {len(report["exits"])}'
            raise UsageError(f'{exits}; pass the result of a test of this config')
        name = args.labels[number] if args.labels else Path(config).stem
        series[name] = [(cost['cost_gmacs'], accuracy) for cost, accuracy in zip(report['exits'], accuracies, strict=True)]
        chance = 1 / cfg.model.backbone.num_classes if args.metric != 'top5' else None
        sample = 'image' if report['frames_per_sample'] == 1 else f'clip of {report["frames_per_sample"]} frames'
    plot_exit_tradeoff(series, args.out, chance, args.title, sample)
    lines = [f'{name} ' + ', '.join(f'{y:.1%} at {x:.3g} GMACs' for x, y in points) for name, points in series.items()]
    print(f'{args.out}: {"; ".join(lines)}')


if __name__ == '__main__':
    run_tool(main)
