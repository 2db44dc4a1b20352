"""Show what the exits predict: python tools/vis_exits.py CONFIG CHECKPOINT --out-dir DIR (see --help).

Writes DIR/gallery.png, with easy images (early exits suffice) beside hard ones (the whole network is needed), and DIR/attention.png, with
the attention of the latent code on one image.
"""

import argparse
import tempfile
from pathlib import Path

from mmengine.config import Config

import dynperceiver  # noqa: F401  its fixes for OpenMMLab on today's PyTorch must come before anything is loaded
from dynperceiver.launch import (
    UsageError,
    answer_samples,
    build_runner,
    check_at_least,
    checkpoint_config,
    collect_answers,
    load_sample,
    network_of,
    run_tool,
    tool_parser,
)
from dynperceiver.layers.recording import record_attention
from dynperceiver.viz import (
    CardGroup,
    choose_groups,
    draw_attention,
    draw_gallery,
    leaving_fractions,
    make_card,
    sample_image,
)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = tool_parser(__doc__, config='config file of an image classifier with exits')
    parser.add_argument('checkpoint', help='checkpoint of this config')
    parser.add_argument('--out-dir', required=True, type=Path, metavar='DIR', help='output folder for the pictures')
    parser.add_argument('--num', type=int, default=8, help='number of easy and of hard images (default: %(default)s)')
    parser.add_argument(
        '--images', nargs='+', default=[], metavar='FILE', help='your own images for the gallery; the attention is shown on the first one'
    )
    parser.add_argument(
        '--threshold', type=float, help='confidence threshold of the exits; the gallery then shows which exit each image uses'
    )
    parser.add_argument(
        '--split', choices=['val', 'test'], default='test', help='which data set of the config to use (default: %(default)s)'
    )
    args = parser.parse_args()
    check_at_least('--num', args.num, 1)
    if args.threshold is not None and not 0 < args.threshold <= 1:
        raise UsageError(f'--threshold {args.threshold:g}: pass a confidence above 0 and at most 1, for example 0.8')
    return args


def runner_config(args: argparse.Namespace, work_dir: str) -> Config:
    """Config of a test on the chosen split, which leaves nothing outside of the work dir."""
    cfg = checkpoint_config(args.config, args.checkpoint, args.cfg_options, work_dir)
    if not cfg.get(f'{args.split}_dataloader'):
        raise UsageError(f'--split {args.split}: {args.config} has no {args.split}_dataloader; choose the other split, or add it')
    cfg.test_dataloader = cfg[f'{args.split}_dataloader']
    cfg.test_evaluator = dict(type='dynperceiver.MultiExitAccuracy')  # takes the place of the config's, which may be none of classification
    cfg.test_cfg = cfg.get('test_cfg') or dict()
    return cfg


def main() -> None:
    """Parse, test, choose, draw, say what was drawn."""
    args = parse_args()
    with tempfile.TemporaryDirectory() as work_dir:
        runner = build_runner(runner_config(args, work_dir))
        network, dataset = network_of(runner), runner.test_dataloader.dataset
        classes = dataset.metainfo.get('classes')
        own = [load_sample(dataset, path) for path in args.images]
        answers = collect_answers(runner)
        groups = list(choose_groups(answers, dataset, args.num, classes, args.threshold))
        sample, card = (own[0], None) if own else (dataset[groups[1].cards[0].index], groups[1].cards[0])
        with record_attention(network.latent_branch.readers) as weights:
            answer_samples(runner, [sample])
        if own:
            replies = answer_samples(runner, own)
            cards = tuple(
                make_card(sample_image(one), replies, row, classes, args.threshold, Path(args.images[row]).name)
                for row, one in enumerate(own)
            )
            groups.append(CardGroup('Given with --images', 'of unknown label', cards))
            card = cards[0]
    name = f'{Path(args.config).stem}, {args.split} images'
    subtitle = leaving_fractions(answers, args.threshold) if args.threshold else f'{len(answers.label_S)} images'
    draw_gallery(groups, args.out_dir / 'gallery.png', f'What the exits answer: {name}', subtitle)
    first = {stage: weights_BHNM[0] for stage, weights_BHNM in weights.items()}
    draw_attention(card, first, args.out_dir / 'attention.png', exit_of_stage=network.exits_of_stages)
    print('\n'.join([f'{group.title}: {group.note}' for group in groups]))
    print(f'{args.out_dir}: gallery.png and attention.png ({card.caption})')


if __name__ == '__main__':
    run_tool(main)
