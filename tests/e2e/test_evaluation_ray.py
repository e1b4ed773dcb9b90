"""Answers and judgements made by two workers of a Ray cluster are those made here, bit for bit."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

PROGRAM = """
import sys
from pathlib import Path
import torch
import danqing
torch.set_num_threads(1)
folder, place = Path(sys.argv[1]), sys.argv[2]
common = dict(systems=["nano?steps=1&name=nano"], judges=["words=ocr"], data=folder / "data")
if place == "ray":
    import ray
    ray.init(address="local", num_cpus=2, log_to_driver=False, logging_level="error")
danqing.evaluate(
    "longtext", "retrieval-nano", folder=folder / place, ray="local" if place == "ray" else None, **common
)
"""
TEXTS = {"text_prompts.jsonl": "en", "text_prompts_zh.jsonl": "zh"}


def test_the_same_answers_and_scores_as_here(tmp_path):
    place = tmp_path / "data" / "longtext"
    place.mkdir(parents=True)
    for name, language in TEXTS.items():
        words = {"en": "HELLO", "zh": "你好"}[language]
        lines = [
            {"prompt": f"{number}: {words}", "text": [words], "category": "sign", "length": "short"}
            for number in range(5)
        ]
        (place / name).write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    for place_of_work in ("here", "ray"):
        _run(tmp_path, place_of_work)
    here, ray = (_held(tmp_path / name / "store.sqlite") for name in ("here", "ray"))
    assert len(here["answers"]) > 20
    assert here == ray
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("here", "ray")]
    assert reports[0]["rows"] == reports[1]["rows"]


def _run(folder: Path, place: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), place],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def _held(path: Path) -> dict[str, list[tuple]]:
    """Return what a store holds, without times."""
    queries = {
        "answers": "SELECT key, digest, request, notes FROM answers ORDER BY key",
        "blobs": "SELECT digest, kind, content FROM blobs ORDER BY digest",
        "scores": "SELECT digest, item, judge, version, atoms FROM scores ORDER BY 1, 2, 3",
        "tasks": "SELECT system, version, item, seed, key FROM tasks ORDER BY 1, 2, 3, 4",
    }
    with sqlite3.connect(path) as connection:
        found = {name: connection.execute(query).fetchall() for name, query in queries.items()}
    connection.close()
    return found
