"""Parts of the command line: the default verb, names of files, writing them, lines of a batch."""

import json
import unicodedata

import click
import pytest

from danqing.cli.batch import read_batch
from danqing.cli.main import with_verb
from danqing.cli.options import parse_size
from danqing.cli.outputs import check_writable, default_paths, free_path, numbered, slug, writing
from danqing.cli.train import load_recipe
from danqing.errors import ConfigError, RequestError, ResourceError
from danqing.weights.layouts import CheckpointInfo

VERBS = ("generate", "info", "doctor", "train", "data")
INFO = CheckpointInfo(name="small", licence="Apache-2.0", size=(64, 64), min_side=32, max_side=96, steps=3)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["--help"]),
        (["--version"], ["--version"]),
        (["help"], ["--help"]),
        (["help", "train"], ["train", "--help"]),
        (["info", "nano"], ["info", "nano"]),
        (["a red apple"], ["generate", "a red apple"]),
        (["apple"], ["generate", "apple"]),
        (["苹果", "-n", "4"], ["generate", "苹果", "-n", "4"]),
        (["--seed", "7", "a red apple"], ["generate", "--seed", "7", "a red apple"]),
        (["--", "-5 degrees"], ["generate", "--", "-5 degrees"]),
        (["generate art"], ["generate", "generate art"]),
    ],
)
def test_what_is_no_verb_is_a_prompt(arguments, expected):
    assert with_verb(arguments, VERBS) == expected


@pytest.mark.parametrize(
    ("word", "verb"), [("genrate", "generate"), ("Generate", "generate"), ("docter", "doctor")]
)
def test_a_misspelt_verb_gets_a_suggestion(word, verb):
    with pytest.raises(click.UsageError, match=f"did you mean '{verb}'"):
        with_verb([word, "a red apple"], VERBS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A red apple, on a blue table!", "a-red-apple-on-a-blue-table"),
        ("一只红色的苹果，在蓝色桌子上", "一只红色的苹果-在蓝色桌子上"),
        ("../../etc/passwd", "etc-passwd"),
        ("🍎", "picture"),
        ("CON\n\0\ttab", "con-tab"),
        ("word " * 30, "word-word-word-word-word-word-word-word"),
        ("x" * 100, "x" * 40),
        ("ｆｕｌｌ", "full"),
    ],
)
def test_slugs(text, expected):
    assert slug(text) == expected
    assert len(slug(text).encode()) <= 160


def test_a_slug_keeps_the_marks_of_scripts_that_need_them():
    assert slug("लाल सेब") == unicodedata.normalize("NFKC", "लाल-सेब")


def test_names(tmp_path):
    out = tmp_path / "out.png"
    assert numbered(out, 1) == (out,)
    assert [path.name for path in numbered(out, 2)] == ["out-1.png", "out-2.png"]
    assert default_paths(tmp_path, "a cat", 7, 1) == (tmp_path / "danqing-7-a-cat.png",)
    names = [path.name for path in default_paths(tmp_path, "a cat", 7, 2)]
    assert names == ["danqing-7-a-cat-1.png", "danqing-8-a-cat-2.png"]
    assert free_path(out) == out
    out.touch()
    (tmp_path / "out_2.png").touch()
    assert free_path(out) == tmp_path / "out_3.png"


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"

    def write(text, *, overwrite, stop=False):
        with writing(path, overwrite=overwrite) as temporary:
            temporary.write_text(text)
            assert path.exists() is overwrite
            if stop:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write("half", overwrite=False, stop=True)
    assert list(tmp_path.iterdir()) == []
    write("one", overwrite=False)
    write("two", overwrite=True)
    assert path.read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "a.txt"

    def write():
        with writing(path, overwrite=False) as temporary:
            temporary.write_text("ours")
            path.write_text("theirs")

    with pytest.raises(RequestError, match="expected a new file"):
        write()
    assert path.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_goes_away_is_one_error(tmp_path):
    with (
        pytest.raises(ResourceError, match="cannot write there"),
        writing(tmp_path / "gone" / "a.txt", overwrite=False) as temporary,
    ):
        temporary.write_text("x")


def test_outputs_are_checked_before_the_work(tmp_path):
    path = tmp_path / "a.png"
    check_writable([path], overwrite=False)
    with pytest.raises(RequestError, match="expected a folder"):
        check_writable([tmp_path / "no" / "a.png"], overwrite=True)
    path.touch()
    with pytest.raises(RequestError, match="expected a folder"):
        check_writable([path / "b.png"], overwrite=True)
    with pytest.raises(RequestError, match="--overwrite"):
        check_writable([path], overwrite=False)
    check_writable([path], overwrite=True)
    (tmp_path / "b.png").mkdir()
    with pytest.raises(RequestError, match="found a folder"):
        check_writable([tmp_path / "b.png"], overwrite=True)


def test_sizes():
    assert parse_size("256x192") == parse_size(" 256 × 192 ") == parse_size("256X192") == (256, 192)
    for wrong in ("256", "x", "256x", "-1x5", "1e3x1", "256x192x3", "9999999x1"):
        with pytest.raises(RequestError, match="WIDTHxHEIGHT"):
            parse_size(wrong)


def batch(tmp_path, *lines, **defaults):
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return read_batch(file, defaults, INFO, tmp_path)


def test_a_line_of_a_batch_is_a_request(tmp_path):
    orders = batch(
        tmp_path,
        {"prompt": "a cat", "size": "32x64", "seed": 5, "count": 2, "steps": None},
        "",
        {"prompt": "一只猫", "size": [64, 32], "guidance": 2, "output": "cat.webp"},
        steps=2,
    )
    assert [order.paths[0].name for order in orders] == ["0001-a-cat-1.png", "0001-a-cat-2.png", "cat.webp"]
    requests = [order.request for order in orders]
    assert [request.seed for request in requests[:2]] == [5, 6]
    assert [request.size for request in requests] == [(32, 64), (32, 64), (64, 32)]
    assert [request.steps for request in requests] == [2, 2, 2]
    assert [request.guidance for request in requests] == [4.0, 4.0, 2]


GOOD = {"prompt": "a cat"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "expected a JSON object"),
        ("[" * 100_000, "2: "),
        ("[1]", "found a list"),
        ({}, "prompt: expected some text"),
        ({"prompt": "  "}, "prompt: expected some text"),
        ({"promt": "a"}, "did you mean 'prompt'"),
        ({"prompt": 5}, "prompt: expected a text"),
        ({"prompt": "a \ud800"}, "prompt: expected valid Unicode"),
        ({**GOOD, "steps": "8"}, "steps: expected a whole number"),
        ({**GOOD, "steps": True}, "steps: expected a whole number"),
        ({**GOOD, "steps": 0}, "steps: expected 1 to 1000"),
        ({**GOOD, "seed": -1}, "a seed is a whole number"),
        ({**GOOD, "guidance": float("nan")}, "guidance: expected 1"),
        ({**GOOD, "size": "big"}, "WIDTHxHEIGHT"),
        ({**GOOD, "size": [64]}, r"expected \[width, height\]"),
        ({**GOOD, "size": [64, 1000]}, "found height 1000"),
        ({**GOOD, "solver": "magic"}, "solver: expected one of"),
        ({**GOOD, "output": "../a.png"}, "plain file name"),
        ({**GOOD, "output": "a.gif"}, "ends in .png"),
        ({**GOOD, "output": "one.png"}, "line 1 writes one.png as well"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, message):
    with pytest.raises(RequestError, match=message) as error:
        batch(tmp_path, {**GOOD, "output": "one.png"}, line)
    assert "prompts.jsonl:2: " in str(error.value)


def test_a_batch_must_hold_something_readable(tmp_path):
    with pytest.raises(RequestError, match="empty file"):
        batch(tmp_path, "", "  ")
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe9"}')
    for name in ("latin.jsonl", "none.jsonl"):
        with pytest.raises(RequestError, match="cannot read"):
            read_batch(tmp_path / name, {}, INFO, tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.py", "x = 1", "defines train"),
        ("a.py", "def train(:", "SyntaxError"),
        ("a.py", "import no_such_package", "no_such_package"),
        ("a.txt", "def train(run): pass", "ends in .py"),
    ],
)
def test_a_wrong_recipe_is_explained(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(tmp_path / name)
