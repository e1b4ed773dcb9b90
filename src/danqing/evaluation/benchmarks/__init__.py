"""The benchmarks by name."""

import difflib
from typing import Final

from danqing.errors import RequestError
from danqing.evaluation.benchmarks.benchmark import Benchmark
from danqing.evaluation.benchmarks.caption_nano import CAPTION_NANO
from danqing.evaluation.benchmarks.coco import COCO, COCO_CN, FLICKR30K
from danqing.evaluation.benchmarks.coherence import COHERENCE, COHERENCE_OBJECTS
from danqing.evaluation.benchmarks.coherence_nano import COHERENCE_NANO
from danqing.evaluation.benchmarks.compbench import COMPBENCH
from danqing.evaluation.benchmarks.compbench_nano import COMPBENCH_NANO
from danqing.evaluation.benchmarks.corebench import COREBENCH
from danqing.evaluation.benchmarks.cycle_nano import CYCLE_NANO
from danqing.evaluation.benchmarks.dpg import DPG, DSG
from danqing.evaluation.benchmarks.geneval import GENEVAL, GENEVAL_LONG
from danqing.evaluation.benchmarks.longtext import LONGTEXT
from danqing.evaluation.benchmarks.parti import PARTI
from danqing.evaluation.benchmarks.retrieval_nano import RETRIEVAL_NANO

BENCHMARKS: Final[tuple[Benchmark, ...]] = (
    COMPBENCH,
    GENEVAL,
    GENEVAL_LONG,
    DPG,
    DSG,
    LONGTEXT,
    COREBENCH,
    PARTI,
    COCO,
    FLICKR30K,
    COCO_CN,
    COHERENCE,
    COHERENCE_OBJECTS,
    COMPBENCH_NANO,
    CAPTION_NANO,
    CYCLE_NANO,
    RETRIEVAL_NANO,
    COHERENCE_NANO,
)


def benchmark(name: str) -> Benchmark:
    """Return a benchmark by its name; raises RequestError that names the nearest one."""
    known = {one.name: one for one in BENCHMARKS}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    told = f"; did you mean {near[0]}?" if near else ""
    raise RequestError(f"expected a benchmark of {', '.join(known)}, found {name!r}{told}")
