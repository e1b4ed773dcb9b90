"""Which published scores belong to which row: the same metric, each under a protocol of its own."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from danqing.evaluation.report.published import Published, lookup


class Metric(NamedTuple):
    """A metric as the table of published scores calls it."""

    benchmark: str
    metric: str
    protocol: str = ""
    """What the protocol of a row must hold, where one name stands for several metrics."""


MEAN: Final = "mean over rows"
"""Name of the row that holds the mean over those that count."""
_COMPBENCH: Final = "T2I-CompBench++"
_EARLIER: Final = "T2I-CompBench (old BLIP-VQA code)"
_CORE: Final = "T2I-CoReBench"
_PHOTOGRAPHS: Final = {"coco": "COCO", "flickr30k": "Flickr30k"}


def _described(name: str, title: str) -> dict[str, Metric]:
    """Return the metrics of photographs described; others search by vectors where we search by words."""
    found = {
        f"{name}-described-{what}-{k}": Metric(f"{title} retrieval", f"{way}_R{k}")
        for what, way in (("texts", "i2t"), ("pictures", "t2i"))
        for k in (1, 5, 10)
    }
    return {f"{name}-described-cider": Metric(f"{title} captioning", "CIDEr"), **found}


PRINTED: Final[Mapping[str, Mapping[str, Metric]]] = {
    "compbench": {
        **{f"compbench-{name}": Metric(_COMPBENCH, name) for name in ("color", "shape", "texture")},
        **{f"compbench-{name}-2023": Metric(_EARLIER, name) for name in ("color", "shape", "texture")},
        "compbench-spatial": Metric(_COMPBENCH, "spatial_2d"),
        "compbench-3d_spatial": Metric(_COMPBENCH, "spatial_3d"),
        **{f"compbench-{name}": Metric(_COMPBENCH, name) for name in ("numeracy", "non_spatial", "complex")},
    },
    "geneval": {
        "geneval-single_object": Metric("GenEval", "single"),
        "geneval-two_object": Metric("GenEval", "two"),
        **{
            f"geneval-{name}": Metric("GenEval", name)
            for name in ("counting", "colors", "position", "color_attr")
        },
        MEAN: Metric("GenEval", "overall"),
    },
    "dpg": {
        "dpg": Metric("DPG-Bench", "overall"),
        **{
            f"dpg-{name}": Metric("DPG-Bench", name)
            for name in ("global", "entity", "attribute", "relation", "other")
        },
    },
    "longtext": {
        "longtext-en": Metric("LongText-Bench", "text_accuracy", "English"),
        "longtext-zh": Metric("LongText-Bench", "text_accuracy", "Chinese"),
    },
    "corebench": {MEAN: Metric(_CORE, "overall")},
    **{name: _described(name, title) for name, title in _PHOTOGRAPHS.items()},
}
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
