"""Every command and every piece of Python in README.md runs as it stands there, or as this table says."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import pytest
import torch

from danqing.models.lora import LoRAConfig, new_adapter
from danqing.models.mmdit import MMDiT
from danqing.weights.adapters import save_adapter
from tests.e2e.conftest import Done
from tests.e2e.test_recipe_nano import smaller_recipe
from tests.editor import half, noisy, write_editor
from tests.guards.files import ROOT, SOURCE
from tests.layering import write_controlnet, write_layered
from tests.tiny import TRANSFORMER

README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WORD = re.compile(r"""(?:"[^"]*"|'[^']*'|\S)+""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How a command is run here."""

    instead: tuple[tuple[str, str], ...] = ()
    """Words of the command, and what stands in their place."""
    more: tuple[str, ...] = ()
    """Arguments added at the end."""
    mistake: str = ""
    """Part of the one line it ends with; empty where it succeeds."""
    makes: tuple[str, ...] = ()
    """Files and folders that are there afterwards."""


AS_IT_IS = Run()
BANANAS = tuple(f"danqing-{6 + k}-two-bananas-on-a-green-background-{k}.png" for k in (1, 2, 3, 4))
SMALL = Run(instead=(("1328x1328", "256x256"), ("50", "2")))  # the weights are a tiny random model's
QUICK = Run(more=("--size", "256x256", "--steps", "2"))
SAID = Run(more=("--max-tokens", "8"))  # random weights never come to an end
RELEASE = "--model path/to/Qwen-Image"
LIGHTNING = "Qwen-Image-Lightning-4steps-V2.0.safetensors"
INTO_SOFA = '"put the cat of picture 1 on the sofa of picture 2"'
UP_TO_THE_NETWORK = Run(mistake="--overwrite")  # the atlas is there: it ends after all flags were checked
STOPPED = Run(more=("--max-seconds", "0", "--device", "cpu"), makes=("runs/nano/tokenizer",))
NO_NETWORK = Run(mistake="HF_HUB_OFFLINE")  # tests have none: it ends where the hub is asked
NO_CACHE = Run(mistake="expected it in the cache")
GGUF = "qwen-image-Q8_0.gguf"
COMMANDS = {
    'danqing "two bananas on a green background" -n 4 --seed 7': Run(makes=BANANAS),
    'danqing generate "一只熊猫，黄色背景" -o panda.png': Run(makes=("panda.png",)),
    "danqing generate --batch prompts.jsonl -o pictures --json": Run(
        makes=("pictures/0001-a-red-apple.png", "pictures/dog.png")
    ),
    "danqing info panda.png": AS_IT_IS,
    "danqing doctor": AS_IT_IS,
    'danqing "a red apple in watercolours" --image photo.png --strength 0.6': AS_IT_IS,
    'danqing "a green apple" --image photo.png --mask apple-is-white.png': AS_IT_IS,
    f'danqing edit photo.png "make the apple green" -o green.png {RELEASE}-Edit-2511': Run(
        makes=("green.png",)
    ),
    f"danqing edit cat.png sofa.jpg {INTO_SOFA} {RELEASE}-Edit-2511": AS_IT_IS,
    f'danqing edit photo.png "a green apple" --mask apple-is-white.png {RELEASE}-Edit-2511': AS_IT_IS,
    f"danqing describe photo.png {RELEASE}": SAID,
    f"danqing describe photo.png --language zh {RELEASE}": SAID,
    f'danqing describe photo.png --ask "how many apples?" {RELEASE}': SAID,
    f"danqing layers poster.png --count 4 {RELEASE}-Layered": Run(
        makes=tuple(f"poster-{number}.png" for number in (1, 2, 3, 4))
    ),
    f"danqing layers poster.png -o poster.ora {RELEASE}-Layered": Run(makes=("poster.ora",)),
    f'danqing "a red house" --control edges.png:0.9:0:0.8 {RELEASE} '
    "--controlnet path/to/Qwen-Image-ControlNet-Union": QUICK,
    f'danqing "a red house" --control edges.png --control-mask hole.png {RELEASE} '
    "--controlnet path/to/Qwen-Image-ControlNet-Inpainting": QUICK,
    f'danqing "a red apple" --lora ink.safetensors:0.8 {RELEASE}': QUICK,
    f'danqing "a red apple" --lightning {LIGHTNING} {RELEASE}': Run(more=("--size", "256x256")),
    f'danqing "a red apple" --enhance {RELEASE}-2.1': AS_IT_IS,
    "danqing generate \"a coffee shop sign that says 'Open'\" --model path/to/Qwen-Image --size 1328x1328 "
    "--steps 50 --guidance 4": SMALL,
    "danqing info path/to/Qwen-Image": AS_IT_IS,
    f'danqing "a glass bird, transparent background" {RELEASE}-2.1 -o bird.png': Run(makes=("bird.png",)),
    "danqing download Qwen/Qwen-Image --dry-run": NO_NETWORK,
    'danqing generate "a red apple" --model Qwen/Qwen-Image --memory 16GB --dry-run': NO_CACHE,
    f'danqing generate "a red apple" {RELEASE} --memory 16GB': QUICK,
    "danqing convert path/to/Qwen-Image -o qwen-image-int8 --precision int8": Run(makes=("qwen-image-int8",)),
    f"danqing convert path/to/Qwen-Image -o {GGUF} --precision q8_0": Run(makes=(GGUF,)),
    f'danqing generate "a red apple" {RELEASE} --transformer {GGUF}': QUICK,
    f"danqing info {GGUF}": AS_IT_IS,
    "danqing convert ink.safetensors --like path/to/Qwen-Image --dialect kohya -o ink-kohya.safetensors": Run(
        makes=("ink-kohya.safetensors",)
    ),
    "danqing evaluate world -o evaluation": Run(
        more=("--rows", "object", "--steps", "1", "--no-baselines"), makes=("evaluation/report.html",)
    ),
    "danqing evaluate list": AS_IT_IS,
    'danqing evaluate run compbench-nano --system nano --system "published:DALL·E 3" -o compared': Run(
        instead=(("nano", "nano?steps=1&name=danqing-nano"),), makes=("compared/report.html",)
    ),
    'danqing evaluate compare danqing-nano "no prompt" --folder compared': AS_IT_IS,
    "danqing evaluate export compared -o pictures": Run(makes=("pictures/manifest.jsonl",)),
    "danqing evaluate fetch geneval": Run(more=("--from", "nowhere"), mistake="--from: expected a folder"),
    "danqing evaluate run geneval --system openai:gpt-image-2 --system path/to/Qwen-Image "
    "--judge open-detector=pinned --judge clip=pinned --max-cost 20 --plan": Run(
        mistake="danqing evaluate fetch"
    ),
    "danqing evaluate run world compbench-nano caption-nano cycle-nano retrieval-nano coherence-nano "
    '--profile lite --system nano --system "published:Qwen-Image" --system "published:DALL·E 3" '
    '--system "published:GPT-Image-1" --system "published:Imagen 2" --page-limit 0.5 -o evaluation': Run(
        more=("--plan",)  # an hour's work
    ),
    "danqing data preview -o scenes.png": Run(makes=("scenes.png",)),
    "danqing data preview -o edits.png --edits --language zh": Run(makes=("edits.png",)),
    "danqing data build -o atlas.safetensors": UP_TO_THE_NETWORK,
    "danqing train recipes/nano.py --run-dir runs/nano --atlas atlas.safetensors": STOPPED,
}
PROMPTS = [{"prompt": "a red apple", "seed": 1}, {"prompt": "a dog", "seed": 2, "output": "dog.png"}]


def commands(text: str) -> list[str]:
    """Return what follows `$ ` in a console block, without comments; a backslash joins lines."""
    lines = text.replace("\\\n", " ").splitlines()
    return [_without_comment(line[2:]) for line in lines if line.startswith("$ ")]


def _without_comment(line: str) -> str:
    words = takewhile(lambda word: not word.startswith("#"), WORD.findall(line))
    return " ".join(words)


BLOCKS = [commands(body) for language, body in BLOCK.findall(README) if language == "console"]
BLOCKS = [
    block for block in BLOCKS if block
]  # the marked commands have no prompt; guards and .ci/run know them
PYTHON = "\n".join(body for language, body in BLOCK.findall(README) if language == "python")


def test_every_command_is_known_and_every_known_one_is_there():
    assert [command for block in BLOCKS for command in block] == list(COMMANDS)


@pytest.fixture
def place(tmp_path, tiny_folder) -> Path:
    """A folder with what the commands of README take for granted."""
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in PROMPTS))
    for number, name in enumerate(("photo.png", "poster.png", "edges.png", "cat.png", "sofa.jpg")):
        noisy(60, 44, seed=number).save(tmp_path / name)
    for name in ("apple-is-white.png", "hole.png"):
        half(60, 44).save(tmp_path / name)
    releases = tmp_path / "path" / "to"
    # No danqing.json: opened as a release is. Those below keep theirs, with which they draw small pictures.
    shutil.copytree(tiny_folder, releases / "Qwen-Image", ignore=shutil.ignore_patterns("danqing.json"))
    write_editor(tiny_folder, releases / "Qwen-Image-Edit-2511")
    write_layered(tiny_folder, releases / "Qwen-Image-Layered")
    for name in ("ink.safetensors", LIGHTNING):
        write_lora(tmp_path / name)
    write_controlnet(releases / "Qwen-Image-ControlNet-Union")
    write_controlnet(releases / "Qwen-Image-ControlNet-Inpainting", masked=True)
    shutil.copy(SOURCE / "data" / "sprites.safetensors", tmp_path / "atlas.safetensors")
    smaller_recipe(tmp_path / "recipes")
    return tmp_path


def write_lora(path: Path) -> None:
    """Write a LoRA for the tiny denoiser."""
    generator = torch.Generator().manual_seed(0)
    adapter = new_adapter(MMDiT(TRANSFORMER), LoRAConfig(rank=2), generator)
    for delta in adapter.values():
        torch.nn.init.normal_(delta.up, generator=generator)
    save_adapter(path, adapter)


def execute(cli: Callable[..., Done], command: str) -> None:
    """Run a command of README and check how it ends."""
    program, *words = shlex.split(command)
    assert program == "danqing"
    known = COMMANDS[command]
    for old, new in known.instead:
        words[words.index(old)] = new
    done = cli(*words, *known.more)
    if known.mistake:
        assert done.is_mistake(known.mistake), done.err
    else:
        assert done.code == 0, done.err
    assert [name for name in known.makes if not Path(name).exists()] == []


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block[0][:40])
def test_commands(cli, place, block, request):
    if any("Qwen-Image-2.1" in command for command in block):
        shutil.copytree(request.getfixturevalue("tiny21_folder"), place / "path" / "to" / "Qwen-Image-2.1")
    for command in block:
        execute(cli, command)


def test_building_data_says_what_it_needs(cli):
    done = cli("data", "build", "--help")
    assert done.code == 0
    assert "npm" in done.out


def test_nano_refuses_in_the_words_of_the_readme(cli, place):
    done = cli("edit", "photo.png", "make the apple green")
    assert done.is_mistake("cannot edit")
    said = done.err.removeprefix("error: ").strip()
    assert f'"{said}"' in " ".join(README.split())
    assert cli("describe", "photo.png").is_mistake("cannot describe")


def test_python(place, monkeypatch):
    monkeypatch.chdir(place)
    exec(compile(PYTHON, "README.md", "exec"), {"__name__": "readme"})
    saved = re.findall(r"\.save\(\"([^\"]+)\"\)", PYTHON)
    assert saved
    assert all(Path(name).is_file() for name in saved)


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ('$ danqing "a cat"      # draws', 'danqing "a cat"'),
        ('$ danqing "a #1 cat" # draws "it"', 'danqing "a #1 cat"'),
        ("$ danqing generate 'a # cat'", "danqing generate 'a # cat'"),
        ("$ danqing info a#b.png", "danqing info a#b.png"),
        ("$ danqing generate cat \\\n    --steps 2  # two", "danqing generate cat --steps 2"),
    ],
)
def test_comments_are_cut(line, command):
    assert commands(f"output\n{line}\nmore output") == [command]
