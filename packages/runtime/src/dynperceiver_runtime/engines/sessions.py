"""How graphs are loaded into ONNX Runtime: threads that never stand in each other's way.

NumPy, ONNX Runtime and the standard library only.
"""

from __future__ import annotations

from typing import Any

from .base import EngineError

__all__ = ['import_onnxruntime', 'make_session', 'share_pool']

_shared_threads: int | None = None


def import_onnxruntime() -> Any:
    """The package ``onnxruntime``.

    Raises:
        EngineError: If it cannot be imported.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            f"backend='onnxruntime' needs ONNX Runtime, which cannot be imported ({error}); install it: pip install onnxruntime"
        ) from error
    return onnxruntime


def share_pool(num_threads: int) -> None:
    """Make the one pool of threads that all sessions of this process share from now on; asking again for the same changes nothing.

    ONNX Runtime then refuses sessions with pools of their own, which are its default: other parts of the program must set
    ``use_per_session_threads = False``, too.

    Raises:
        EngineError: If the pool has another number of threads, or ONNX Runtime was used before.
    """
    global _shared_threads
    if _shared_threads == num_threads:
        return
    if _shared_threads is not None:
        raise EngineError(
            f'num_threads={num_threads} with shared_pool=True: the pool of this process has {_shared_threads} threads already, and there '
            f'is only one; pass num_threads={_shared_threads}'
        )
    try:
        import_onnxruntime().set_global_thread_pool_sizes(num_threads, 1)
    except RuntimeError as error:
        raise EngineError(
            f'shared_pool=True comes too late ({error}): the pool is made before the first session of a process; build this runner first, '
            'or leave shared_pool out'
        ) from error
    _shared_threads = num_threads


def make_session(content: bytes, num_threads: int, shared_pool: bool = False) -> Any:
    """Load a graph for the CPU.

    Without a shared pool every session has threads of its own. They spin while a graph runs, and sleep between two runs, since they would
    take the processors from the next segment's. Where the program has made a pool for all sessions, that one is used.

    Args:
        content: The graph's file.
        num_threads: Threads of the session's own pool.
        shared_pool: Whether to use the pool of :func:`share_pool`.
    """
    runtime = import_onnxruntime()

    def load(own_threads: bool) -> Any:
        options = runtime.SessionOptions()
        options.log_severity_level = 4 if own_threads else 3
        if own_threads:
            options.intra_op_num_threads = num_threads
            options.add_session_config_entry('session.force_spinning_stop', '1')
        options.use_per_session_threads = own_threads
        return runtime.InferenceSession(content, options, providers=['CPUExecutionProvider'], enable_fallback=0)

    if shared_pool:
        return load(own_threads=False)
    try:
        return load(own_threads=True)
    except RuntimeError as error:
        if 'use_per_session_threads' not in str(error):
            raise
        return load(own_threads=False)  # the program has made a pool for all sessions, and ONNX Runtime allows no other
