"""`danqing generate --batch`: many pictures, checked first and resumed after a stop."""

import json

import pytest


@pytest.fixture
def batch(cli, tiny_folder, tmp_path):
    """Draw lines as a batch with the tiny checkpoint."""

    def run(lines, *arguments):
        (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return cli("generate", "--batch", "prompts.jsonl", "--model", tiny_folder, *arguments)

    return run


LINES = [
    {"prompt": "a cat", "seed": 7},
    {"prompt": "一只猫", "seed": 8, "size": "32x32", "output": "cat.webp"},
    {"prompt": "a dog", "seed": 9, "count": 2},
]
NAMES = ["0001-a-cat.png", "cat.webp", "0003-a-dog-1.png", "0003-a-dog-2.png"]


def test_every_line_is_drawn(batch, tmp_path):
    done = batch(LINES, "-o", "out", "--json", "--steps", 2)
    assert done.code == 0, done.err
    said = [json.loads(line) for line in done.lines]
    assert [line["path"] for line in said] == [f"out/{name}" for name in NAMES]
    assert [line["seed"] for line in said] == [7, 8, 9, 10]
    assert [line["size"] for line in said] == [[64, 48], [32, 32], [64, 48], [64, 48]]
    assert {line["steps"] for line in said} == {2}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(NAMES)


def test_a_wrong_line_stops_everything_before_it_starts(batch, tmp_path):
    done = batch([*LINES, {"prompt": "a cow", "size": "1x1"}], "-o", "out")
    assert done.is_mistake("prompts.jsonl:4: size: tiny draws 32 to 96 pixels")
    assert not (tmp_path / "out").exists()


def test_a_stopped_batch_is_resumed(batch, tmp_path):
    assert batch(LINES, "-o", "out").code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert batch(LINES, "-o", "out").is_mistake("expected a new file", "--overwrite")
    for name in ("cat.webp", "0003-a-dog-2.png"):
        (tmp_path / "out" / name).unlink()
    done = batch(LINES, "-o", "out", "--resume")
    assert done.lines == ["out/cat.webp", "out/0003-a-dog-2.png"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    again = batch(LINES, "-o", "out", "--resume")
    assert (again.code, again.out) == (0, "")


def test_a_batch_brings_its_own_prompts(batch, tmp_path):
    assert batch(LINES, "a cat").is_mistake("found several")
    (tmp_path / "file").touch()
    assert batch(LINES, "-o", "file").is_mistake("file")
