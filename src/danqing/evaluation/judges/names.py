"""The names by which people choose who looks at pictures, as in `vqa=openai-compatible:ADDRESS#MODEL`.

What stands before the equals sign is the role, after it who plays it, after a question mark how:

    blip-vqa=WEIGHTS          BLIP VQA                              ?side=480&digits=4&encoder_token=yes
    open-detector=WEIGHTS     OWLv2 or Grounding DINO               ?threshold=0.2&overlap=0.5&sure=0.3,0.9
    depth=WEIGHTS             DPT or Depth Anything                 ?eight_bit=yes
    clip=WEIGHTS              CLIP                                  ?prefix=A photo depicts
    vqa=..., ask=..., words=...
        vlm:WEIGHTS           any vision-language model of transformers     ?ending=...&longest=256
        blip:WEIGHTS          BLIP VQA
        vqascore:WEIGHTS      a vision-language model by P("Yes") alone; for vqa
        openai:MODEL          OpenAI's API, its key in the environment      ?logprobs=yes&system=...
        openai-compatible:ADDRESS#MODEL    another server of that shape
        danqing:CHECKPOINT    a checkpoint of danqing
        ocr                   PP-OCR; for words, and the default there

WEIGHTS is a folder, ORG/NAME@COMMIT, a name of the table of pinned weights, or `pinned` for the role's own.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from danqing.errors import RequestError
from danqing.evaluation.judges.own import OwnJudge
from danqing.evaluation.judges.words import AskedWords, OcrWords
from danqing.evaluation.named import Known, amount, count, parsed, share, values, yes
from danqing.retry import Retry
from danqing.scoring.blip_vqa import BlipOptions, BlipVQA
from danqing.scoring.clip import Clip
from danqing.scoring.depth import DepthModel
from danqing.scoring.looking import ROLES, Asker, Look, Looks
from danqing.scoring.open_detector import DetectorOptions, OpenDetector
from danqing.scoring.pretrained import Source, source_of
from danqing.scoring.remote_judge import RemoteJudge, RemoteOptions
from danqing.scoring.vlm_judge import VlmJudge
from danqing.scoring.vqa_score import VqaScore

PINNED_WEIGHTS: Final = "pinned"
_OCR: Final = "ocr"
_OWN_KIND: Final[Mapping[str, str]] = {
    "blip-vqa": "blip",
    "open-detector": "detector",
    "depth": "depth",
    "clip": "clip",
}
"""Role -> what plays it, where nothing else can."""
_TALKING: Final = ("vlm", "blip", "vqascore", "openai", "openai-compatible", "danqing")
_ROLE_OF: Final[Mapping[str, str]] = {
    "blip": "blip-vqa",
    "detector": "open-detector",
    "depth": "depth",
    "clip": "clip",
    "vqascore": "vqa",
}
"""Kind -> the role whose pinned weights it takes, where it has one of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenLook:
    """Who plays a role; nothing is loaded yet."""

    role: str
    kind: str
    what: str
    options: Mapping[str, Any]
    text: str
    """As it was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenLooks:
    """All that were chosen."""

    chosen: tuple[ChosenLook, ...] = ()
    device: str = "auto"
    precision: str | None = None
    """None for what each kind has by itself: fp32 where models are small, the device's own where large."""
    kept: Path | None = None
    """Folder of the answers of judges over HTTP."""

    @property
    def roles(self) -> frozenset[str]:
        """The roles that are filled."""
        return frozenset(one.role for one in self.chosen)

    def looks(self) -> Looks:
        """Load them, each once. Raises ConfigError without a library, CheckpointError for broken weights."""
        opened: dict[tuple[str, str, str], Look] = {}
        found = Looks()
        for one in self.chosen:
            key = (one.kind, one.what, repr(sorted(one.options.items())))
            if key not in opened:
                opened[key] = _OPEN[one.kind](one, self)
            look: Any = opened[key]
            if one.role == "words" and one.kind != _OCR:
                look = AskedWords(look)
            found = replace(found, **{ROLES[one.role]: look})
            if "sure" in one.options:
                found = replace(found, sure=one.options["sure"])
        return found


def looks_named(
    texts: Sequence[str],
    *,
    device: str = "auto",
    precision: str | None = None,
    kept: Path | None = None,
) -> ChosenLooks:
    """Return who plays which role, by names as `vqa=danqing:nano`; nothing is loaded.

    Raises RequestError for a role, a kind or an option that means nothing, and for a role given twice.
    """
    chosen = tuple(_chosen(text) for text in texts)
    for one in chosen:
        if sum(other.role == one.role for other in chosen) > 1:
            raise RequestError(f"expected every role once, found {one.role} twice; leave one out")
    return ChosenLooks(chosen=chosen, device=device, precision=precision, kept=kept)


def _chosen(text: str) -> ChosenLook:
    role, equals, rest = text.partition("=")
    if role not in ROLES or not equals:
        near = difflib.get_close_matches(role, ROLES, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise RequestError(f"expected ROLE=NAME with a role of {', '.join(ROLES)}, found {text!r}{hint}")
    name, _, query = rest.partition("?")
    kind, what = _kind(role, name, text)
    given = parsed(query, text)
    return ChosenLook(
        role=role, kind=kind, what=what, options=values(given, _known(role, kind), text), text=text
    )


def _kind(role: str, name: str, text: str) -> tuple[str, str]:
    """Return what plays a role, and which one."""
    if role in _OWN_KIND:
        return _OWN_KIND[role], "" if name == PINNED_WEIGHTS else _some(name, text)
    if role == "words" and name in ("", _OCR):
        return _OCR, ""
    kind, colon, what = name.partition(":")
    if not colon or kind not in _TALKING or (kind == "vqascore" and role != "vqa"):
        fitting = [one for one in _TALKING if one != "vqascore" or role == "vqa"]
        near = difflib.get_close_matches(kind, fitting, 1)
        hint = f"; did you mean {near[0]}:?" if near else ""
        kinds = ", ".join(f"{one}:" for one in fitting)
        raise RequestError(f"{text}: expected a judge that begins with {kinds}, found {name!r}{hint}")
    if kind == "openai-compatible" and not all(what.partition("#")[::2]):
        raise RequestError(f"{text}: expected {kind}:ADDRESS#MODEL, found {name!r}")
    local = kind in ("vlm", "blip", "vqascore")
    return kind, "" if local and what == PINNED_WEIGHTS else _some(what, text)


def _some(what: str, text: str) -> str:
    if not what:
        raise RequestError(f"{text}: expected weights or {PINNED_WEIGHTS!r}, found nothing")
    return what


def _known(role: str, kind: str) -> Known:
    return {**_OPTIONS[kind], **(_LOCAL if kind in _LOCAL_KINDS else {})}


def _open_blip(one: ChosenLook, chosen: ChosenLooks) -> Look:
    return BlipVQA(_source(one, chosen), BlipOptions(**_own(one)))


def _open_detector(one: ChosenLook, chosen: ChosenLooks) -> Look:
    return OpenDetector(_source(one, chosen), DetectorOptions(**_own(one)))


def _open_depth(one: ChosenLook, chosen: ChosenLooks) -> Look:
    return DepthModel(_source(one, chosen), **_own(one))


def _open_clip(one: ChosenLook, chosen: ChosenLooks) -> Look:
    return Clip(_source(one, chosen), **_own(one))


def _open_vlm(one: ChosenLook, chosen: ChosenLooks) -> VlmJudge:
    return VlmJudge(_source(one, chosen, large=True), **_own(one))


def _open_vqa_score(one: ChosenLook, chosen: ChosenLooks) -> Look:
    return VqaScore(_open_vlm(one, chosen))


def _open_remote(one: ChosenLook, chosen: ChosenLooks) -> Asker:
    endpoint, _, model = one.what.partition("#") if one.kind == "openai-compatible" else ("", "", one.what)
    given = dict(one.options)
    retry = Retry(attempts=given.pop("attempts", Retry().attempts))
    options = RemoteOptions(**given)
    return RemoteJudge(model, options, endpoint=endpoint or None, kept=chosen.kept, retry=retry)


def _open_own(one: ChosenLook, chosen: ChosenLooks) -> Asker:
    from danqing.model import load_describer

    given = dict(one.options)
    device = given.pop("device", chosen.device)
    precision = given.pop("precision", chosen.precision or "auto")
    return OwnJudge(load_describer(one.what, device=device, precision=precision), **given)


def _open_ocr(one: ChosenLook, chosen: ChosenLooks) -> Look:
    return OcrWords(**one.options)


def _source(one: ChosenLook, chosen: ChosenLooks, *, large: bool = False) -> Source:
    held = chosen.precision or ("auto" if large else "fp32")
    return source_of(
        one.what,
        _ROLE_OF.get(one.kind, one.role if one.role != "words" else "vqa"),
        device=one.options.get("device", chosen.device),
        precision=one.options.get("precision", held),
    )


def _own(one: ChosenLook) -> dict[str, Any]:
    """Return the options that the model itself knows."""
    return {name: value for name, value in one.options.items() if name not in ("device", "precision", "sure")}


def _two(text: str) -> tuple[float, float]:
    first, second = map(share, text.split(","))
    return first, second


def _optional(read: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: None if text == "none" else read(text)


_OPEN: Final[Mapping[str, Callable[[ChosenLook, ChosenLooks], Look]]] = {
    "blip": _open_blip,
    "detector": _open_detector,
    "depth": _open_depth,
    "clip": _open_clip,
    "vlm": _open_vlm,
    "vqascore": _open_vqa_score,
    "openai": _open_remote,
    "openai-compatible": _open_remote,
    "danqing": _open_own,
    _OCR: _open_ocr,
}
_LOCAL: Final[Known] = {"device": str, "precision": str}
_LOCAL_KINDS: Final = ("blip", "detector", "depth", "clip", "vlm", "vqascore", "danqing")
_VLM: Final[Known] = {"longest": count, "ending": str}
_REMOTE: Final[Known] = {
    "longest": count,
    "choice": str,
    "logprobs": yes,
    "system": str,
    "temperature": _optional(amount),
    "image_detail": str,
    "seconds": amount,
    "attempts": count,
}
_OPTIONS: Final[Mapping[str, Known]] = {
    "blip": {"side": count, "digits": count, "encoder_token": yes},
    "detector": {
        "threshold": share,
        "overlap": _optional(share),
        "wording": str,
        "long_side": count,
        "most": count,
        "sure": _two,
    },
    "depth": {"eight_bit": yes},
    "clip": {"prefix": str},
    "vlm": _VLM,
    "vqascore": _VLM,
    "openai": _REMOTE,
    "openai-compatible": _REMOTE,
    "danqing": {"longest": count},
    _OCR: {"confidence": share},
}
