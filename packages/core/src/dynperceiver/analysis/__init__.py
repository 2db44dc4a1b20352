"""What the network costs, counted."""

from ..models import find_network
from .flops import ExitCost, count_exit_costs, count_gmacs, meta_copy
from .report import cost_table, costs_of_config

__all__ = ['ExitCost', 'cost_table', 'costs_of_config', 'count_exit_costs', 'count_gmacs', 'find_network', 'meta_copy']
