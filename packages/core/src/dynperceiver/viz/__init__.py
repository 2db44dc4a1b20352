"""Pictures."""

from .answers import AnswerCollector, ExitAnswers, answer_samples, collect_answers, load_sample, network_of, sample_image
from .attention import attention_grid, draw_attention, exits_of_stages, most_different_token, upsample_grid
from .exits import plot_exit_tradeoff, read_exit_accuracies
from .gallery import Card, CardGroup, choose_groups, draw_gallery, leaving_shares, make_card
from .tradeoff import TradeoffPoints, TradeoffRow, draw_tradeoff, tradeoff_points, wilson_interval, write_tradeoff_csv
from .tradeoff_report import plot_tradeoff

__all__ = [
    'AnswerCollector',
    'Card',
    'CardGroup',
    'ExitAnswers',
    'TradeoffPoints',
    'TradeoffRow',
    'answer_samples',
    'attention_grid',
    'choose_groups',
    'collect_answers',
    'draw_attention',
    'draw_gallery',
    'draw_tradeoff',
    'exits_of_stages',
    'leaving_shares',
    'load_sample',
    'make_card',
    'most_different_token',
    'network_of',
    'plot_exit_tradeoff',
    'plot_tradeoff',
    'read_exit_accuracies',
    'sample_image',
    'tradeoff_points',
    'upsample_grid',
    'wilson_interval',
    'write_tradeoff_csv',
]
