"""What the network costs, counted."""

from .flops import ExitCost, count_exit_costs, count_gmacs, meta_copy
from .report import cost_table, costs_of_config, find_network

__all__ = ['ExitCost', 'cost_table', 'costs_of_config', 'count_exit_costs', 'count_gmacs', 'find_network', 'meta_copy']
