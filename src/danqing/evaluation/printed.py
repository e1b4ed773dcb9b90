"""Which published scores belong to which row: the same metric, each under a protocol of its own."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from danqing.evaluation.published import Published, lookup


class Metric(NamedTuple):
    """A metric as the table of published scores calls it."""

    benchmark: str
    metric: str
    protocol: str = ""
    """What the protocol of a row must hold, where one name stands for several metrics."""


MEAN: Final = "mean over rows"
"""Name of the row that holds the mean over those that count."""
PRINTED: Final[Mapping[str, Mapping[str, Metric]]] = {}
"""Name of a benchmark -> name of a row -> what the table calls it. Benchmarks of nano's size have none: their
prompts are other prompts."""


def printed(benchmark: str, row: str) -> tuple[Published, ...]:
    """Return the published scores of a row, best first; empty where nobody printed any."""
    metric = PRINTED.get(benchmark, {}).get(row)
    if metric is None:
        return ()
    found = lookup(benchmark=metric.benchmark, metric=metric.metric)
    return tuple(
        sorted((one for one in found if metric.protocol in one.protocol), key=lambda one: -one.value)
    )
