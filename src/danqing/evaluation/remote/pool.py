"""Several requests at once, answers in the order of the items."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

from danqing.errors import ConfigError, DanqingError
from danqing.evaluation.items import Item, Made

Outcome = Made | DanqingError
Ask = Callable[[Item, int], Made]


class Pool:
    """Asks a vendor for several items at the same time.

    Where one of several items is refused or fails, whoever runs the system asks for each alone to learn
    which; what the others came to is kept until then, so that nothing is made, and paid, twice. A wrong key
    or an unknown model (ConfigError) fails for every item without asking again.
    """

    def __init__(self, ask: Ask, concurrency: int) -> None:
        if concurrency < 1:
            raise ConfigError(f"concurrency: expected 1 or more, found {concurrency}")
        self._ask, self._concurrency = ask, concurrency
        self._held: dict[tuple[str, int], Outcome] = {}
        self._closed: ConfigError | None = None
        self._lock = Lock()

    def answer(self, items: Sequence[Item], seed: int) -> list[Made]:
        """Return the answer to each item; raises the first error where there is one."""
        outcomes = self._outcomes(items, seed)
        made = [one for one in outcomes if not isinstance(one, DanqingError)]
        if len(made) == len(outcomes):
            return made
        if len(items) > 1:
            self._held |= {(item.id, seed): one for item, one in zip(items, outcomes, strict=True)}
        raise next(one for one in outcomes if isinstance(one, DanqingError))

    def _outcomes(self, items: Sequence[Item], seed: int) -> list[Outcome]:
        if len(items) == 1:
            return [self._one(items[0], seed)]
        pool = ThreadPoolExecutor(max_workers=min(self._concurrency, max(1, len(items))))
        try:
            outcomes = list(pool.map(lambda item: self._one(item, seed), items))
        except BaseException:  # stopped by hand: do not wait for what is under way
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        pool.shutdown()
        return outcomes

    def _one(self, item: Item, seed: int) -> Outcome:
        with self._lock:
            held = self._held.pop((item.id, seed), None)
            if held is not None or self._closed is not None:
                return held if held is not None else self._closed  # type: ignore[return-value]
        try:
            return self._ask(item, seed)
        except ConfigError as error:
            with self._lock:
                self._closed = error
            return error
        except DanqingError as error:
            return error
