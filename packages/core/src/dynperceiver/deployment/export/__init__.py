"""The network as ONNX graphs, one per segment, which ONNX Runtime serves without PyTorch."""

from .cleaning import ExportError
from .graphs import SegmentGraph, export_graphs
from .preprocessing import read_preprocessing
from .segments import ExportReport, SegmentReport, export, export_table

__all__ = [
    'ExportError',
    'ExportReport',
    'SegmentGraph',
    'SegmentReport',
    'export',
    'export_graphs',
    'export_table',
    'read_preprocessing',
]
