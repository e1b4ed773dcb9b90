"""What `describe` asks a model that is asked for nothing else, in the twelve languages of the package.

The question carries the language: a model answers in the one that it is asked in. Released models know these
sentences as they know any; nano learned its answers to exactly these.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from danqing.conditioning.templates import DESCRIBE_QUESTION
from danqing.errors import RequestError

DESCRIBE_QUESTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "en": DESCRIBE_QUESTION,
        "zh": "请用中文描述这张图片。",
        "es": "Describe la imagen en español.",
        "fr": "Décris l'image en français.",
        "de": "Beschreibe das Bild auf Deutsch.",
        "pt": "Descreva a imagem em português.",
        "it": "Descrivi l'immagine in italiano.",
        "ja": "この画像を日本語で説明してください。",
        "ko": "이 이미지를 한국어로 설명해 주세요.",
        "ru": "Опиши изображение на русском языке.",
        "ar": "صف الصورة باللغة العربية.",
        "hi": "इस चित्र का वर्णन हिन्दी में कीजिए।",
    }
)
"""Language → the question that asks for a description in it."""


def describe_question(language: str = "en") -> str:
    """Return the question for a description in `language`; raises RequestError for an unknown one."""
    if language not in DESCRIBE_QUESTIONS:
        known = ", ".join(DESCRIBE_QUESTIONS)
        raise RequestError(
            f"language: expected one of {known}, found {language!r}; ask for another one with --ask"
        )
    return DESCRIBE_QUESTIONS[language]
