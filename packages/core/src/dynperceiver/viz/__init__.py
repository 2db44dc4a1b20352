"""Pictures."""

from .answers import AnswerCollector, ExitAnswers, answer_samples, collect_answers, load_sample, network_of, sample_image
from .attention import attention_grid, draw_attention, most_different_token, upsample_grid
from .exits import plot_exit_tradeoff, read_exit_accuracies
from .gallery import Card, CardGroup, choose_groups, draw_gallery, leaving_shares, make_card

__all__ = [
    'AnswerCollector',
    'Card',
    'CardGroup',
    'ExitAnswers',
    'answer_samples',
    'attention_grid',
    'choose_groups',
    'collect_answers',
    'draw_attention',
    'draw_gallery',
    'leaving_shares',
    'load_sample',
    'make_card',
    'most_different_token',
    'network_of',
    'plot_exit_tradeoff',
    'read_exit_accuracies',
    'sample_image',
    'upsample_grid',
]
