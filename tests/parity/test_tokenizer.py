"""Our tokenizer against the released one and against the classes of transformers."""

import json
import random
import sys
import unicodedata

import pytest

from danqing.conditioning.templates import DESCRIBE, EDIT, EDIT_PLUS, GENERATE
from danqing.conditioning.tokenizer import ADDED_TOKENS, Tokenizer
from danqing.conditioning.tokenizer_training import train_tokenizer

pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

SCRIPTS = {
    "ascii": (0x20, 0x7E),
    "latin": (0xA0, 0x24F),
    "combining": (0x300, 0x36F),
    "greek": (0x370, 0x3FF),
    "cyrillic": (0x400, 0x52F),
    "hebrew": (0x590, 0x5FF),
    "arabic": (0x600, 0x6FF),
    "devanagari": (0x900, 0x97F),
    "thai": (0xE00, 0xE7F),
    "jamo": (0x1100, 0x11FF),
    "punctuation": (0x2000, 0x206F),
    "symbols": (0x2190, 0x27BF),
    "kana": (0x3040, 0x30FF),
    "han": (0x4E00, 0x9FFF),
    "hangul": (0xAC00, 0xD7A3),
    "private": (0xE000, 0xE0FF),
    "fullwidth": (0xFF00, 0xFFEF),
    "emoji": (0x1F300, 0x1FAFF),
    "rare han": (0x20000, 0x2A6DF),
}
JOINTS = [
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    " \n ",
    "'s",
    "'LL",
    "12345",
    "!?",
    "…",
    "\u3000",
    "\u00a0",
    "",
    "A\u0301",
]
SPECIAL = [*ADDED_TOKENS, "<|im_start|", "<|unknown|>", "<think>"]


def strings(count, seed=0):
    """Random texts that mix scripts, white space, digits and special tokens."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        parts = []
        for _ in range(rng.randint(0, 8)):
            low, high = rng.choice(list(SCRIPTS.values()))
            parts.append("".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 9))))
            parts.append(rng.choice(JOINTS) if rng.random() < 0.8 else rng.choice(SPECIAL))
        made.append("".join(parts))
    return made


CAPTIONS = [
    'a red apple on a blue table, a sign that says "OPEN" behind it',
    "three green apples and two small yellow stars on a white background",
    "画一个红色的苹果，旁边写着“你好”",
    "ein rotes Haus neben einem blauen Auto",
    "un gato negro durmiendo sobre una silla",
    "красный дом и синяя машина",
    "青い空と白い雲、赤い屋根の家",
] * 20


@pytest.fixture(scope="module")
def folder(released_tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    released_tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def released(folder):
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def small():
    return train_tokenizer(CAPTIONS, 1400)


def test_ids_of_many_scripts(released, released_tokenizer):
    for text in strings(4000):
        assert released.encode(text) == released_tokenizer(text)["input_ids"], text


def test_decoding(released, released_tokenizer):
    for text in strings(500, seed=1):
        ids = released.encode(text)
        for skip in (False, True):
            expected = released_tokenizer.decode(
                ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False
            )
            assert released.decode(ids, skip_special=skip) == expected
        assert released.decode(ids, skip_special=False) == unicodedata.normalize("NFC", text)


def test_every_assigned_character(released, released_tokenizer):
    """Each character of the basic plane once: they differ in the classes that the word pattern uses."""
    characters = [
        chr(c) for c in range(sys.maxunicode) if c < 0x3000 and unicodedata.category(chr(c)) != "Cs"
    ]
    text = "".join(f"a{c}b{c} {c}\n" for c in characters)
    assert released.encode(text) == released_tokenizer(text)["input_ids"]


def test_released_special_tokens(released):
    assert (released.pad, released.eos, released.im_start) == (151643, 151645, 151644)
    assert (released.vision_start, released.vision_end) == (151652, 151653)
    assert (released.image_pad, released.video_pad) == (151655, 151656)
    assert released.token(released.eos) == "<|im_end|>"


@pytest.mark.parametrize("name", ["released", "small"])
def test_templates_drop_exactly_their_head(name, request):
    tokenizer = request.getfixturevalue(name)
    for template, drop in ((GENERATE, 34), (EDIT, 64), (EDIT_PLUS, 64)):
        head, tail = template.text.split("{}")
        assert template.drop == drop == len(tokenizer.encode(head))
        assert len(tokenizer.encode(tail)) == 5
        # What follows never merges into the head, unless it starts with a line break.
        for prompt in ("", "a cat", " a", "'s", "  x", "！", "猫"):
            assert tokenizer.encode(template.fill(prompt))[:drop] == tokenizer.encode(head)
    assert len(tokenizer.encode(DESCRIBE.text.split("{}")[0])) == 14


def test_separate_files_give_the_same_ids(released, tmp_path):
    released.save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    from_config = Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    from_added = Tokenizer.load(tmp_path)
    assert len(from_config) == len(from_added) == len(released)
    for text in strings(300, seed=2):
        assert from_config.encode(text) == from_added.encode(text) == released.encode(text)


@pytest.mark.parametrize("name", ["released", "small"])
def test_transformers_reads_what_we_write(name, request, tmp_path):
    from transformers import AutoTokenizer, Qwen2Tokenizer

    ours = request.getfixturevalue(name)
    ours.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    for theirs in (Qwen2Tokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert len(theirs) == len(ours) == len(again)
        assert (theirs.pad_token_id, theirs.eos_token_id) == (ours.pad, ours.eos)
        for text in strings(500, seed=3) + CAPTIONS[:7]:
            ids = ours.encode(text)
            assert theirs(text)["input_ids"] == ids == again.encode(text)
            assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids)
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "hi"}]}]
        chat = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert chat == "<|im_start|>user\n" + EDIT.picture + "hi<|im_end|>\n<|im_start|>assistant\n"


def test_transformers_4_files_suffice(small, tmp_path):
    """Released folders of the 1.x family hold vocab.json and merges.txt, and no tokenizer.json."""
    from transformers import Qwen2Tokenizer

    small.save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    theirs = Qwen2Tokenizer.from_pretrained(tmp_path)
    for text in strings(200, seed=4) + CAPTIONS[:7]:
        assert theirs(text)["input_ids"] == small.encode(text)


def test_training_is_deterministic(small, tmp_path):
    again = train_tokenizer(iter(CAPTIONS), 1400)
    assert again.vocabulary == small.vocabulary
    small.save(tmp_path / "a")
    again.save(tmp_path / "b")
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_trained_vocabulary(small, released):
    assert len(small) <= 1400
    assert small.pad == len(small) - 22
    first = list(small.vocabulary.tokens)[:256]
    assert first == list(released.vocabulary.tokens)[:256]
    for word in ("image", " the", "Describe", " Generate", "Picture", " apple", " red"):
        assert len(small.encode(word)) == 1, word


def test_capitals_and_digits_are_spelled(small):
    for text in ('"OPEN"', " GENERATE", '"DESCRIBE THE IMAGE"', "PICTURE", "2026", "A1B2"):
        assert [small.token(i) for i in small.encode(text)] == list(text)
    assert len(small.encode('"Describe')) == 2


def test_trained_merges_survive_json(small, tmp_path):
    small.save(tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    assert [tuple(m) for m in saved["model"]["merges"]] == small.vocabulary.merges
