"""What the network costs."""

from .flops import ExitCost, count_exit_costs, count_gmacs, meta_copy

__all__ = ['ExitCost', 'count_exit_costs', 'count_gmacs', 'meta_copy']
