"""Text → token ids: the byte-level BPE of Qwen2, read from and written as released `tokenizer/` folders."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from danqing.errors import CheckpointError, RequestError
from danqing.files import read_json, read_text, write_json

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""Where Qwen2 cuts a text before merging: words, single digits, symbols, spaces."""

ADDED_TOKENS = {
    "<|endoftext|>": True,
    "<|im_start|>": True,
    "<|im_end|>": True,
    "<|object_ref_start|>": True,
    "<|object_ref_end|>": True,
    "<|box_start|>": True,
    "<|box_end|>": True,
    "<|quad_start|>": True,
    "<|quad_end|>": True,
    "<|vision_start|>": True,
    "<|vision_end|>": True,
    "<|vision_pad|>": True,
    "<|image_pad|>": True,
    "<|video_pad|>": True,
    "<tool_call>": False,
    "</tool_call>": False,
    "<|fim_prefix|>": False,
    "<|fim_middle|>": False,
    "<|fim_suffix|>": False,
    "<|fim_pad|>": False,
    "<|repo_name|>": False,
    "<|file_sep|>": False,
}
"""What Qwen2.5-VL adds after the vocabulary, in order, and whether decoding may hide it."""

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}
{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part.type == 'text' -%}
{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""

MAX_VOCAB = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """What a tokenizer is made of: the parts of its files that change ids."""

    tokens: dict[str, int]
    """Byte-level token → id, dense from zero."""
    merges: list[tuple[str, str]]
    """Pairs to join, most urgent first."""
    added: dict[str, bool]
    """Token kept whole in any text → whether decoding may hide it; numbered after `tokens` in this order."""


class Tokenizer:
    """Turn text into token ids and back, exactly as the released tokenizer does."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._backend = backend = tokenizers.Tokenizer(
            models.BPE(vocab=vocabulary.tokens, merges=vocabulary.merges)
        )
        backend.normalizer = normalizers.NFC()
        backend.pre_tokenizer = split_words()
        backend.decoder = decoders.ByteLevel()
        backend.add_tokens(
            [AddedToken(t, normalized=False, special=special) for t, special in vocabulary.added.items()]
        )
        self.pad = self.token_id("<|endoftext|>")
        self.im_start = self.token_id("<|im_start|>")
        self.eos = self.token_id("<|im_end|>")
        self.vision_start = self.token_id("<|vision_start|>")
        self.vision_end = self.token_id("<|vision_end|>")
        self.image_pad = self.token_id("<|image_pad|>")
        self.video_pad = self.token_id("<|video_pad|>")

    def __len__(self) -> int:
        """Count all ids, those of added tokens included."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Read `tokenizer.json`, or `vocab.json` and `merges.txt` with the added tokens beside them."""
        folder = Path(folder)
        if (folder / "tokenizer.json").is_file():
            return cls(_parse_tokenizer_json(folder / "tokenizer.json"))
        if (folder / "vocab.json").is_file():
            return cls(_parse_separate_files(folder))
        raise CheckpointError(
            f"expected tokenizer.json, or vocab.json and merges.txt, in {folder}, found neither"
        )

    def save(self, folder: str | Path) -> None:
        """Write the files of a released `tokenizer/` folder, for us and for transformers 4 and 5."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        added = {token: self.token_id(token) for token in self.vocabulary.added}
        self._backend.save(str(folder / "tokenizer.json"))
        write_json(folder / "vocab.json", self.vocabulary.tokens)
        merges = "".join(f"{first} {second}\n" for first, second in self.vocabulary.merges)
        (folder / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
        write_json(folder / "added_tokens.json", added)
        flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
        decoder = {
            str(i): {"content": t, **flags, "special": self.vocabulary.added[t]} for t, i in added.items()
        }
        names = {
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "unk_token": None,
        }
        config = {
            "tokenizer_class": "Qwen2Tokenizer",
            **names,
            "add_prefix_space": False,
            "add_bos_token": False,
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": False,
            "model_max_length": 131072,
            "errors": "replace",
            "added_tokens_decoder": decoder,
        }
        write_json(folder / "tokenizer_config.json", config)
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; added tokens inside it keep their meaning."""
        try:
            return self._backend.encode(text, add_special_tokens=False).ids
        except (UnicodeEncodeError, TypeError) as error:
            raise RequestError("expected valid Unicode text, found a lone surrogate in it") from error

    def decode(self, token_ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Return the text of ids; bytes that are no UTF-8 become U+FFFD."""
        return self._backend.decode(list(token_ids), skip_special_tokens=skip_special)

    def token_id(self, token: str) -> int:
        """Return the id of one token as it is spelled in the vocabulary."""
        token_id = self._backend.token_to_id(token)
        if token_id is None:
            raise CheckpointError(f"expected the token {token} in the tokenizer, found none")
        return token_id

    def token(self, token_id: int) -> str:
        """Return the text of one id, its leading space included; parts of a character become U+FFFD."""
        return self.decode([token_id], skip_special=False)


def split_words() -> pre_tokenizers.PreTokenizer:
    """Return the step that cuts text into words and spells them in printable bytes."""
    pattern = tokenizers.Regex(SPLIT_PATTERN)
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _parse_tokenizer_json(path: Path) -> Vocabulary:
    content = read_json(path)
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise CheckpointError(
            f"expected a BPE model in {path}, found another kind, take the tokenizer of Qwen2.5-VL"
        )
    if json.dumps(SPLIT_PATTERN) not in json.dumps(content.get("pre_tokenizer")):
        raise CheckpointError(
            f"expected the word pattern of Qwen2 in {path}, found another, take the tokenizer of Qwen2.5-VL"
        )
    added = content.get("added_tokens", [])
    if not isinstance(added, list) or not all(isinstance(entry, dict) for entry in added):
        raise CheckpointError(f"expected a list of added tokens in {path}, found something else")
    return _checked(path, model.get("vocab"), model.get("merges"), [(e.get("id"), e) for e in added])


def _parse_separate_files(folder: Path) -> Vocabulary:
    tokens = read_json(folder / "vocab.json")
    lines = read_text(folder / "merges.txt").splitlines()
    merges = [line for line in lines if line and not line.startswith("#version")]
    added: list[tuple[Any, Mapping[str, Any]]] = []
    if (folder / "tokenizer_config.json").is_file():
        decoder = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder", {})
        added = [(int(i), entry) for i, entry in decoder.items() if i.isdecimal() and isinstance(entry, dict)]
    if not added and (folder / "added_tokens.json").is_file():
        for token, token_id in read_json(folder / "added_tokens.json").items():
            added.append((token_id, {"content": token, "special": ADDED_TOKENS.get(token, True)}))
    return _checked(folder / "vocab.json", tokens, merges, added)


def _checked(path: Path, tokens: Any, merges: Any, added: list[tuple[Any, Mapping[str, Any]]]) -> Vocabulary:
    """Build a vocabulary from parsed files; whatever passes here cannot fail in the backend."""
    if not isinstance(tokens, dict) or not isinstance(merges, list) or len(tokens) + len(added) > MAX_VOCAB:
        raise CheckpointError(f"expected a vocabulary of at most {MAX_VOCAB} tokens and its merges in {path}")
    if sorted(i for i in tokens.values() if type(i) is int) != list(range(len(tokens))):
        raise CheckpointError(f"expected ids from 0 to {len(tokens) - 1} in {path}, found gaps or repeats")
    pairs = [_pair(path, tokens, merge) for merge in merges]
    by_id = {i: entry for i, entry in added if type(i) is int}
    names = [entry.get("content") for _, entry in sorted(by_id.items())]
    dense = sorted(by_id) == list(range(len(tokens), len(tokens) + len(added)))
    if not dense or not all(isinstance(t, str) and t and t not in tokens for t in names):
        raise CheckpointError(
            f"expected new added tokens numbered from {len(tokens)} on in {path}, found others"
        )
    if len(set(names)) < len(names):
        raise CheckpointError(f"expected each added token once in {path}, found repeats")
    hidden = [bool(entry.get("special", True)) for _, entry in sorted(by_id.items())]
    return Vocabulary(tokens=tokens, merges=pairs, added=dict(zip(map(str, names), hidden, strict=True)))


def _pair(path: Path, tokens: Mapping[str, int], merge: Any) -> tuple[str, str]:
    """Read one merge, `"a b"` or `["a", "b"]`, and check that all its tokens exist."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
        raise CheckpointError(f"expected merges of two tokens in {path}, found {str(merge)[:40]!r}")
    first, second = parts
    if first not in tokens or second not in tokens or first + second not in tokens:
        raise CheckpointError(f"expected merges of known tokens in {path}, found {str(merge)[:40]!r}")
    return first, second
