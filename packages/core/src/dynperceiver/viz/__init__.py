"""Pictures."""

from .attention import attention_grid, draw_attention, most_different_token, upsample_grid
from .exits import plot_exit_tradeoff, read_exit_accuracies
from .gallery import Card, CardGroup, choose_groups, draw_gallery, leaving_fractions, make_card, sample_image
from .tradeoff import draw_tradeoff

__all__ = [
    'Card',
    'CardGroup',
    'attention_grid',
    'choose_groups',
    'draw_attention',
    'draw_gallery',
    'draw_tradeoff',
    'leaving_fractions',
    'make_card',
    'most_different_token',
    'plot_exit_tradeoff',
    'read_exit_accuracies',
    'sample_image',
    'upsample_grid',
]
