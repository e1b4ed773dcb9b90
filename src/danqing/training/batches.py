"""The batches of a run in order of their steps, made ahead by other processes where a device would wait."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import count
from typing import Any, Protocol

import torch

_AHEAD = 4  # batches a process that wait to be used


class Batched(Protocol):
    """What makes batches; one of several workers gets a copy, so it can be pickled."""

    def batch(self, step: int) -> Any:
        """Return the batch of optimizer step `step`, which depends on the step alone."""


def batches(objective: Batched, first: int, *, workers: int = 0) -> Generator[Any, None, None]:
    """Yield the batches of step `first` and all after it; with `workers`, so many processes make them.

    They are the same either way. Closing the iterator ends the processes.
    """
    if not workers:
        yield from map(objective.batch, count(first))
    else:
        yield from _made_ahead(objective, first, workers)


def _made_ahead(objective: Batched, first: int, workers: int) -> Generator[Any, None, None]:
    context = multiprocessing.get_context("spawn")  # a fork would copy what CUDA holds
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(objective,))
    coming = deque[Future[Any]]()
    try:
        for step in count(first):
            coming.append(pool.submit(_batch, step))
            if len(coming) > _AHEAD * workers:
                yield coming.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_own: list[Batched] = []  # of this process


def _begin(objective: Batched) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asked for the batches stops, and ends this process
    torch.set_num_threads(1)
    _own[:] = [objective]


def _batch(step: int) -> Any:
    return _own[0].batch(step)
