"""The network as ONNX graphs, one per segment, which ONNX Runtime serves without PyTorch."""

from .cleaning import ExportError
from .graphs import SegmentGraph, export_graphs
from .preprocessing import read_preprocessing
from .segments import ExportReport, SegmentGraphs, SegmentReport, export, export_table, make_graphs

__all__ = [
    'ExportError',
    'ExportReport',
    'SegmentGraph',
    'SegmentGraphs',
    'SegmentReport',
    'export',
    'export_graphs',
    'export_table',
    'make_graphs',
    'read_preprocessing',
]
