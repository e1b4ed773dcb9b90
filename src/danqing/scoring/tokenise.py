"""Words of a caption, as the COCO caption evaluation counts them (Chen et al. 2015, arXiv 1504.00325).

That evaluation cuts sentences by the conventions of the Penn Treebank (Marcus, Santorini and Marcinkiewicz
1993) in the dialect of Stanford's PTBTokenizer, writes them small and drops common punctuation. Scores depend
on each of its habits, so they are kept, the odd ones too: a bracket becomes the word `-lrb-` and stays,
`1 1/2` is one token with a no-break space, an emoji vanishes.

The rules were written from the observed answers of that program. At every place the longest match wins, what
a rule looks ahead at counted in; of equally long ones the first. Known to differ: abbreviations with an s
stuck to them (`inc.s`), rare faces, letters younger than Unicode 6, an apostrophe after a lone
accented capital; and where that program reads on into the next caption of its file, captions stand alone.
"""

import re
import unicodedata
from functools import cache
from typing import Final

_DROPPED: Final = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
"""Tokens that are no words."""


def tokenise(text: str) -> list[str]:
    """Split a caption into lower-case words without punctuation."""
    text = text.replace("&apos;", "'").translate(_SPELLING)
    shape = text.translate(_SHAPES)  # one character each, so places agree
    words, at = [], 0
    while at < len(shape):
        if shape[at] == " ":
            at += 1
            continue
        end, kind = _longest(shape, at)
        word = _written(text[at:end], kind)
        if word not in _DROPPED:
            words.append(word)
        at = end
    return words


def _longest(shape: str, at: int) -> tuple[int, str]:
    """Return where the token that starts at `at` ends, and the name of its rule."""
    best, end, kind = at, at + 1, "mark"
    for name, pattern in _rules():
        match = pattern.match(shape, at)
        if match is None:
            continue
        reach = max(match.end(group) for group in range(pattern.groups + 1))
        if reach > best:
            best, end, kind = reach, match.end(), name
    return end, kind


def _written(token: str, kind: str) -> str:
    """Return the token in the spelling of the Treebank, in lower case."""
    match kind:
        case "mark":
            token = _SIGNS.get(token, token)
        case "entity":
            token = _ENTITIES.get(token.lower(), token)
        case "dash" | "dots":
            token = token[0]
        case "quotes":
            token = "".join(_QUOTES.get(mark, mark) for mark in token)
        case "clitic" | "negation":
            token = token.replace("’", "'")
        case "capitals":
            token = re.sub("&amp;", "&", token, flags=re.IGNORECASE)
        case "phone" | "face":
            token = token.replace("(", "-lrb-").replace(")", "-rrb-")
    return re.sub(r"\s+", "\u00a0", token).lower()


_SPELLING: Final = str.maketrans(
    {chr(code): bytes([code]).decode("cp1252") for code in (0x80, 0x91, 0x92, 0x93, 0x94, 0x96, 0x97)}
    | {"\u00ad": ""}  # a soft hyphen, and Windows-1252 read as Latin-1
)

_SIGNS: Final = (
    {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
    | dict.fromkeys("\"'`‘’‛“”«»‹›", "'")  # a single one is dropped whatever its spelling
    | dict.fromkeys("-–—―‐‑", "-")
    | {".": ".", "…": "...", "£": "#", "¢": "cents", "€": "$", "₠": "$", "¤": "$"}
    | {"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}
)

_QUOTES: Final = (
    dict.fromkeys("“«", "``") | dict.fromkeys("”»", "''") | dict.fromkeys("‘‛‹", "`") | {"’": "'", "›": "'"}
)

_ENTITIES: Final = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": "'", "&nbsp;": "'"}


class _Shapes(dict[int, str]):
    """For `str.translate`: é for a letter outside ASCII, a space for what no rule knows, or the character."""

    def __missing__(self, code: int) -> str:
        self[code] = shape = _shape(chr(code))
        return shape


_SHAPES: Final = _Shapes()

_JOINS: Final = re.compile(  # vowel signs, accents and modifiers that belong to a word
    "[\u02c2-\u0375\u0384\u0385\u0483-\u0487\u055a-\u055f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"
    "\u0615-\u061a\u064b-\u065e\u0670\u06d6-\u06ed\u06fd\u06fe\u0711\u0730-\u074a\u07a6-\u07b0\u07eb-\u07f3"
    "\u0900-\u0903\u093c\u093e-\u094e\u0951-\u0955\u0962\u0963\u0981-\u0983\u09bc-\u09e3\u0a01-\u0a4f"
    "\u0a81-\u0ad0\u0b82-\u0bcd\u0c01-\u0c56\u0d3e-\u0d4d\u0e31-\u0e3a\u0e47-\u0e4e\u0eb1-\u0ecd]"
)
_ALONE: Final = re.compile(  # signs that are tokens of their own
    "[!-/:-@\\[-`{-~\u00a1-\u00bf\u00d7\u00f7\u037e\u0387\u0589\u05be\u05c0\u05c3\u05c6\u05f3\u05f4\u0606-\u060c"
    "\u061b\u061e\u061f\u066a\u066d\u06d4\u0700-\u070d\u0964\u0965\u0e3f\u0e4f\u2010\u2011\u2013-\u2023\u2026"
    "\u2030-\u203b\u203e-\u2042\u2044\u2070-\u208e\u20a0\u20a4\u20ac\u2100-\u214f\u2153-\u215e\u2190-\u2bff"
    "\u3001\u3002\u3012\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0\uffe1\uffe5\uffe6]"
)


def _shape(character: str) -> str:
    if character.isascii():
        return character if character.isprintable() else " "
    if character > "\uffff":
        return " "
    category = unicodedata.category(character)
    if category[0] == "L" or category == "Nd" or _JOINS.match(character):
        return "é"
    return character if _ALONE.match(character) else " "


_ABBREVIATIONS: Final = (
    # months, days, places, firms
    "jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thu|thurs|fri|al|ala|ariz|calif|colo|conn|ct|dak"
    "|fla|ga|ind|kans?|ky|md|mich|minn|mo|mont|nebr?|nev|okla|penn|tenn|va|vt|wisc?|wyo|ave|blvd|bldg|rd|rt|st|ste"
    "|mt|ft|univ|assn|assoc|bancorp|bhd|bros|cie|co|cos|corp|dept|elec|inc|intl|invt|ltd|mfg|mtg|natl|plc"
    "|pp?t[ye]|pt[ye]s"
    # people
    "|adm|alex|asst|attys?|brig|capt|cmdr|col|comdr|cpl|det|drs?|ens|esq|gen|govs?|hon|insp|jos|jr|lieut|lt|maj"
    "|messrs|mlle|mme|mrs?|ms|msgr|pfc|ph|pres|profs?|pvt|reps?|rev|sens?|sfc|sgt|spc|sr|supts?|treas|wm"
    # the rest
    "|adj|adv|cf|est|etc|ext|seq|sq|sys|tel|vs"
)
_CAPITALISED: Final = "ark|az|del|ill|la|mass|miss|ore|pa|tex|wash"  # words of their own, when small
_KEPT: Final = (  # words with an apostrophe
    "['’]n|o['’](?:er|clock)|e['’]er|cap['’]n|c['’](?:est|mon)|ev['’]ry|nor['’]easter|nat['’]l"
    "|s['’]mores|li['’]l|ol['’]|dunkin['’]|somethin['’]"
)
_STARTERS: Final = (  # with a capital they begin a sentence, so the letter and full stop before them end one
    "the|a|in|that|you|it|this|as|at|he|but|we|an|so|they|if|one|about|what|when|more|their|there|her|she|some|now"
    "|other|our|after|then|these|here|many|last|while|such|since|however|yet|once|according|earlier|additionally"
)
_NUMBERED: Final = "art|ca|figs?|nos?|op|pp"  # short before a number


@cache
def _rules() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Return the rules by name. A group is what must follow a token without being part of it."""
    return tuple((name, re.compile(source)) for name, source in (_words() | _numbers() | _signs()).items())


_LETTER: Final = "[A-Za-zé]"
_CHAR: Final = "[A-Za-z0-9é]"


def _words() -> dict[str, str]:
    clitic = "(?i:(?:'(?=(?:[sdm]|ll|re|ve)(?![a-z]))|’)(?:[sdm]|ll|re|ve))"
    kept = f"['’][nN]['’]|’[nN]|(?i:['’](?:em|til|cause)|(?:{_KEPT})(?!{_LETTER}))"
    piece = f"(?:[dolDOL]['’])?{_CHAR}+(?:_{_CHAR}+)*"
    initials = r"[A-Za-z](?:\.[A-Za-z])+"
    dotted = f"[A-Za-z0-9][A-Za-z0-9.,]*(?:-(?:{_CHAR}+|{initials}\\.))+"
    slashed = f"{_CHAR}+(?:-{_LETTER}+){{0,2}}"
    short = f"(?i:{_ABBREVIATIONS})|(?=[A-Z])(?i:{_CAPITALISED})"
    return {
        "clitic": clitic,
        "owner": f"{_CHAR}+(?=({clitic}))",
        "negation": f"[nN]['’`][tT]|{_LETTER}+?(?=([nN]['’`][tT]))",
        "joined": "(?i:can(?=(not))|(?:gon|wan)(?=(na))|got(?=(ta))|(?:lem|gim)(?=(me))|'t(?=(is|was)))",
        "prefix": f"(?:[A-HJ-XZ]|[dlno]|[qQ]u)['’`]{_LETTER}{_CHAR}+|[djlyDJLY]['’](?={_LETTER})",
        "name": f"[A-Za-z]+[aeiouyAEIOUY]['’][A-Z]{_LETTER}*",
        "kept": f"{kept}|(?i:{_LETTER}+[aeiouy]['’][aeiou]{_LETTER}*)",
        "letter": rf"[A-Za-z](?=(\.\s+(?=[A-Z])(?i:{_STARTERS})\b))",
        "word": f"{_CHAR}+(?:_{_CHAR}+)*",
        "hyphened": f"{piece}(?:[-‐‑]{piece})+|{dotted}",
        "slashed": f"{slashed}(?:/{slashed}){{1,2}}",
        "run on": f"{_LETTER}{_CHAR}*(?:[.!?]{_LETTER}{_CHAR}*)+",
        "initials": rf"{initials}\.?|[A-Za-z]\.|Ph\.D\.",
        "short": rf"(?:{short})\.|{piece}(?:[-‐‑]{piece})*\.(?=([,;:]))",
        "numbered": rf"(?i:{_NUMBERED})\.(?=(\s?\d))",
    }


def _numbers() -> dict[str, str]:
    return {
        "year": r"['’](?:\d0[sS]|\d\d(?=\s|$))",
        "number": r"[-+]?(?:\d*(?:[.,:]\d+)+|\d+)",
        "fraction": r"(?:\d{1,4}[- ])?\d{1,4}/\d{1,4}",
        "phone": r"\(\d{3}\) ?\d{3}[- ]\d{4}|(?:\d{2,4}[- ]){1,2}\d{3,4}[- ]\d{3,5}",
        "money": r"[A-Z]{1,3}\$",
    }


def _signs() -> dict[str, str]:
    mail = r"[A-Za-z0-9][A-Za-z0-9+._-]*@[A-Za-z0-9]+(?:\.[A-Za-z0-9]+)*"
    far, near, host = r"[^\s<>\"|(){}]", r"[^\s<>\"|(){}.,!?;:'-]", r"[^\s<>\"|(){}.,!?$'_[A-Z-]+"
    site = rf"(?:www\.(?:{host}\.)+[a-z]{{2,4}}|(?:{host}\.)+(?:com|net|org|edu))(?:/{far}+{near})?"
    attribute = r"""\s+[A-Za-z_:]\w*(?:\s*=\s*(?:"[^"<>]*"|'[^'<>]*'|\w+))?"""
    return {
        "capitals": "(?:[A-Z]+(?:[&+]|&amp;))+[A-Z]+",
        "language": r"[cC]\+\+|[cCfF]#",
        "tag": f"#{_LETTER}+|@[A-Za-z_][A-Za-z0-9_]*",
        "mail": f"<{mail}>|(?:mailto:)?{mail}",
        "address": f"(?i:https?)://{far}*{near}|{site}",
        "markup": rf"<(?:/?[A-Za-z][\w:]*(?:{attribute})*\s*/?|!--.*?--|\?.*?\?)>",
        "face": r"[<>]?[:;=]['*]?[-o*']?[()DPp\[\]{|O](?![A-Za-z0-9])|:\\|['^xXoOT-]_['^xXoOT-]",
        "entity": r"(?i:&(?:amp|lt|gt|quot|nbsp|#\d+);)",
        "signs": r"[!?]+|\*+|_+|#+|@+|-{5,}|<<|>>",
        "quotes": "''|``|[“”‘’«»‹›‛`]{2}",
        "dots": r"\.\.\.",
        "dash": "-{2,4}",
    }
