# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""Threads for plain functions. As daemons they never keep the interpreter from its end."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import Context, copy_context
from typing import Any

_Job = tuple["Future[Any]", Context, Callable[[], Any]]


class DaemonThreads:
    """At most `max_threads` threads at work, each started when it is first needed."""

    def __init__(self, max_threads: int, *, name: str) -> None:
        self._may_start = max_threads
        self._name = name
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._idle = 0
        self._threads: set[threading.Thread] = set()
        self._closed = False

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        """Run it in a thread as soon as one is free, with the caller's context variables."""
        future: Future[Any] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError(f"The threads {self._name!r} are closed.")
            self._jobs.append((future, copy_context(), work))
            self._changed.notify()
            self._start_if_needed()
        return future

    def _start_if_needed(self) -> None:
        if len(self._jobs) > self._idle and self._may_start > 0:
            self._may_start -= 1
            name = f"{self._name}-{len(self._threads) + 1}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._threads.add(thread)
            thread.start()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While the calling thread, if it is one of these, waits for others, one more may work."""
        if threading.current_thread() not in self._threads:
            yield
            return
        with self._changed:
            self._may_start += 1
            self._start_if_needed()
        try:
            yield
        finally:
            with self._changed:
                self._may_start -= 1
                self._changed.notify()  # Below zero there is one too many, and one of them ends.

    def close(self) -> None:
        """End every thread after the work that was submitted; nothing is waited for."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _work(self) -> None:
        while (job := self._next_job()) is not None:
            _run(*job)
            del job

    def _next_job(self) -> _Job | None:
        with self._changed:
            while self._may_start >= 0 and not self._jobs:
                if self._closed:
                    return None
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
            if self._may_start >= 0:
                return self._jobs.popleft()
            self._may_start += 1
            self._threads.discard(threading.current_thread())
            return None


def _run(future: Future[Any], context: Context, work: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = context.run(work)
    except StopIteration as error:
        # A future cannot carry it: it would end the `await` in silence. Source: PEP 479.
        future.set_exception(RuntimeError(f"StopIteration was raised: {error}"))
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
