"""Learn a small vocabulary in which the released templates keep their token counts.

Byte-pair encoding (Sennrich et al., 2016) with two rules of our own. Every word of the templates becomes one
token before the corpus is looked at, so the number of leading tokens to drop is that of the released
checkpoints. And no merge crosses into an upper-case letter, so a text to be drawn in capitals reaches the
model letter by letter.
"""

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise

from tokenizers import Regex, normalizers, pre_tokenizers

from danqing.conditioning.templates import DESCRIBE_QUESTION, TEMPLATES
from danqing.conditioning.tokenizer import ADDED_TOKENS, MAX_VOCAB, SPLIT_PATTERN, Tokenizer, Vocabulary
from danqing.errors import ConfigError

Pair = tuple[str, str]

_CAPITALS = r"\p{Lu}[^\p{Lu}]*|[^\p{Lu}]+"
_MARKS = re.compile(r"<\|\w+\|>|\{\}")


def train_tokenizer(texts: Iterable[str], vocab_size: int, *, min_count: int = 2) -> Tokenizer:
    """Learn a tokenizer of at most `vocab_size` ids, the 22 added ones included.

    Pairs seen fewer than `min_count` times are not merged. The same texts in any order give the same result.
    """
    alphabet = byte_alphabet()
    words = _template_words()
    room = vocab_size - len(alphabet) - len(ADDED_TOKENS)
    merges: list[Pair] = []
    _learn(_count(words, split_capitals=True), merges, MAX_VOCAB, min_count=1)
    merges += _joins(words, merges)
    needed = len({first + second for first, second in merges})
    if needed > room:
        least = vocab_size + needed - room
        raise ConfigError(f"expected a vocabulary of at least {least} for the templates, found {vocab_size=}")
    _learn(_count(texts, split_capitals=True), merges, room, min_count=min_count)
    tokens = dict.fromkeys([*alphabet, *(first + second for first, second in merges)])
    vocabulary = Vocabulary(
        tokens={token: index for index, token in enumerate(tokens)}, merges=merges, added=dict(ADDED_TOKENS)
    )
    return Tokenizer(vocabulary)


def byte_alphabet() -> list[str]:
    """Return the 256 printable characters that stand for bytes, in the order of the released vocabulary.

    Printable bytes of Latin-1 stand for themselves, the others for characters from U+0100 on (GPT-2, 2019).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(b) for b in printable] + [chr(0x100 + k) for k in range(256 - len(printable))]


def _template_words() -> list[str]:
    """List the pieces of the templates between their special tokens."""
    texts = [template.text for template in TEMPLATES] + [template.picture for template in TEMPLATES]
    return [piece for text in (*texts, DESCRIBE_QUESTION) for piece in _MARKS.split(text) if piece]


def _count(texts: Iterable[str], *, split_capitals: bool) -> Counter[str]:
    """Count the words of texts, spelled in printable bytes."""
    steps: list[pre_tokenizers.PreTokenizer] = [
        pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated")
    ]
    if split_capitals:
        steps.append(pre_tokenizers.Split(Regex(_CAPITALS), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    splitter = pre_tokenizers.Sequence(steps)
    normalizer = normalizers.NFC()
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    return counts


def _joins(texts: Iterable[str], merges: list[Pair]) -> list[Pair]:
    """Return the merges that join what capitals cut apart in the templates, such as a space and `Generate`.

    They go from the end of a word to its start, so that no token is a space and a capital alone.
    """
    joins: dict[Pair, None] = {}
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    for word in _count(texts, split_capitals=False):
        *head, tail = _segment(word, ranks)
        for part in reversed(head):
            joins[part, tail] = None
            tail = part + tail
    return list(joins)


def _segment(word: str, ranks: Mapping[Pair, int]) -> list[str]:
    """Apply merges to one word, the most urgent first."""
    parts = list(word)
    while len(parts) > 1:
        best = min(pairwise(parts), key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        parts = _join(parts, best)
    return parts


def _join(parts: list[str], pair: Pair) -> list[str]:
    out: list[str] = []
    for part in parts:
        if out and (out[-1], part) == pair:
            out[-1] = "".join(pair)
        else:
            out.append(part)
    return out


def _learn(counts: Mapping[str, int], merges: list[Pair], room: int, *, min_count: int) -> None:
    """Append the most frequent pairs to `merges` until they make `room` tokens; ties go by spelling."""
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    known = {"".join(pair) for pair in merges}
    words = [(_segment(word, ranks), count) for word, count in sorted(counts.items())]
    totals: Counter[Pair] = Counter()
    places: defaultdict[Pair, set[int]] = defaultdict(set)
    for index, (parts, count) in enumerate(words):
        for pair in pairwise(parts):
            totals[pair] += count
            places[pair].add(index)
    queue = [(-total, pair) for pair, total in totals.items()]
    heapq.heapify(queue)
    while queue and len(known) < room:
        total, best = heapq.heappop(queue)
        if -total != totals[best]:  # counted before a merge changed it; the new count is in the queue as well
            continue
        if -total < min_count:
            return
        merges.append(best)
        known.add("".join(best))
        changed: set[Pair] = set()
        for index in places.pop(best):
            parts, count = words[index]
            joined = _join(parts, best)
            for old in pairwise(parts):
                totals[old] -= count
            for new in pairwise(joined):
                totals[new] += count
                places[new].add(index)
            changed.update(pairwise(parts), pairwise(joined))
            words[index] = (joined, count)
        for pair in sorted(changed):
            if totals[pair] > 0:
                heapq.heappush(queue, (-totals[pair], pair))
