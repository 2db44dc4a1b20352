"""How graphs are loaded into ONNX Runtime: threads that never stand in each other's way, and processes that may fork.

NumPy, ONNX Runtime and the standard library only.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from functools import cache
from typing import Any
from weakref import WeakSet

from .base import EngineError

__all__ = ['Sessions', 'import_onnxruntime', 'make_session', 'share_pool']

_shared_threads: int | None = None
_live_sessions: WeakSet[Any] = WeakSet()
_live_lists: WeakSet[Sessions] = WeakSet()


def import_onnxruntime() -> Any:
    """The package ``onnxruntime``.

    Its telemetry (1.31) stays off unless the program sets ``ORT_DISABLE_TELEMETRY`` itself: a machine that serves sends nothing unasked,
    and the telemetry's thread holds locks that a forked process would wait for.

    Raises:
        EngineError: If it cannot be imported.
    """
    os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            f"backend='onnxruntime' needs ONNX Runtime, which cannot be imported ({error}); install it: pip install onnxruntime"
        ) from error
    _allow_forks()
    return onnxruntime


@cache
def _allow_forks() -> None:
    if hasattr(os, 'register_at_fork'):
        os.register_at_fork(after_in_child=_leave_behind)


def _leave_behind() -> None:
    """In a forked process: give up what is left of the parent's sessions, and of ONNX Runtime when the process ends.

    Their threads did not follow into this process, and whatever destroys a session or ONNX Runtime itself waits for them: for ever, or
    until it crashes. So the sessions are never destroyed, and where the C library has ``on_exit`` (glibc) the process ends, after Python
    has cleaned up, without the libraries' own exit handlers, as processes of ``multiprocessing`` always do.
    """
    for session in _live_sessions:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
    for sessions in _live_lists:
        sessions.forget()
    library = ctypes.CDLL(None)
    if all(hasattr(library, name) for name in ('on_exit', '_exit', 'fcloseall')):
        register = library.on_exit
        register.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
        for name in ('_exit', 'fcloseall'):  # handlers are called from the last to the first: files are flushed, then all ends
            register(ctypes.cast(getattr(library, name), ctypes.c_void_p), None)


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
        session = runtime.InferenceSession(content, options, providers=['CPUExecutionProvider'], enable_fallback=0)
        _live_sessions.add(session)
        return session

    if shared_pool:
        return load(own_threads=False)
    try:
        return load(own_threads=True)
    except RuntimeError as error:
        if 'use_per_session_threads' not in str(error):
            raise
        return load(own_threads=False)  # the program has made a pool for all sessions, and ONNX Runtime allows no other


class Sessions:
    """Sessions by number, each loaded when it is first asked for, once in every process; threads may ask at the same time."""

    def __init__(self) -> None:
        self.forget()
        _live_lists.add(self)

    def __len__(self) -> int:
        """Sessions that were loaded so far."""
        return len(self._loaded)

    def get(self, number: int, load: Callable[[int], Any]) -> Any:
        """The session of a number.

        Args:
            number: The number.
            load: Loads it where it is not loaded yet.
        """
        with self._lock:
            if number not in self._loaded:
                self._loaded[number] = load(number)
            return self._loaded[number]

    def forget(self) -> None:
        """Start anew, as a forked process has to."""
        self._loaded: dict[int, Any] = {}
        self._lock = threading.Lock()
