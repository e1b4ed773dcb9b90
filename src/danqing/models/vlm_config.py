"""Sizes of the vision-language model, read from and written as the released `config.json`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from danqing.errors import ConfigError
from danqing.models.vision import VisionConfig

# our name → the released name; the same in transformers 4 (top level) and 5 (inside text_config)
TEXT_KEYS = {
    "vocab_size": "vocab_size",
    "dim": "hidden_size",
    "hidden_dim": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "norm_eps": "rms_norm_eps",
    "max_positions": "max_position_embeddings",
}
TOKEN_KEYS = {
    "image_token": "image_token_id",
    "video_token": "video_token_id",
    "vision_start_token": "vision_start_token_id",
    "vision_end_token": "vision_end_token_id",
}
_VISION_KEYS = {
    "dim": "hidden_size",
    "hidden_dim": "intermediate_size",
    "num_layers": "depth",
    "num_heads": "num_heads",
    "out_dim": "out_hidden_size",
    "in_channels": "in_channels",
    "patch_size": "patch_size",
    "temporal_patch_size": "temporal_patch_size",
    "merge_size": "spatial_merge_size",
    "window_size": "window_size",
    "full_attention_layers": "fullatt_block_indexes",
    "tokens_per_second": "tokens_per_second",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class VLMConfig:
    """Sizes and special tokens of the model; the defaults are those of Qwen2.5-VL-7B."""

    vocab_size: int = 152064
    dim: int = 3584
    hidden_dim: int = 18944
    num_layers: int = 28
    num_heads: int = 28
    num_kv_heads: int = 4
    norm_eps: float = 1e-6
    rope_theta: float = 1e6
    mrope_section: tuple[int, int, int] = (16, 24, 24)
    """Frequencies that turn with time, height and width; they add up to half a head."""
    max_positions: int = 128000
    tie_embeddings: bool = False
    """Whether the head is the embedding table; then the checkpoint has no `lm_head.weight`."""
    image_token: int = 151655
    video_token: int = 151656
    vision_start_token: int = 151652
    vision_end_token: int = 151653
    eos_token: int = 151645
    pad_token: int = 151643
    vision: VisionConfig = field(default_factory=VisionConfig)

    def __post_init__(self) -> None:
        """Check that the sizes fit each other."""
        if min(self.vocab_size, self.dim, self.num_layers, self.num_heads, self.num_kv_heads) < 1:
            raise ConfigError("expected positive sizes of the language tower, found zero or less")
        if self.dim % self.num_heads or self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"dim must be a multiple of num_heads and num_heads of num_kv_heads, found "
                f"{self.dim=} {self.num_heads=} {self.num_kv_heads=}"
            )
        if 2 * sum(self.mrope_section) != self.head_dim:
            raise ConfigError(
                f"mrope_section must add up to half of head_dim, found {self.mrope_section=} {self.head_dim=}"
            )
        if self.vision.out_dim != self.dim:
            raise ConfigError(
                f"the vision tower must end in the language width, found {self.vision.out_dim=} {self.dim=}"
            )

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.dim // self.num_heads

    @property
    def rope_axes(self) -> tuple[int, ...]:
        """Axis (0 time, 1 height, 2 width) that each rotary frequency turns with: one section an axis."""
        return tuple(axis for axis, count in enumerate(self.mrope_section) for _ in range(count))

    @classmethod
    def from_dict(cls, released: Mapping[str, Any]) -> "VLMConfig":
        """Read a released `config.json`, with the text keys at the top level or inside `text_config`."""
        text = {**released, **(released.get("text_config") or {})}
        vision = dict(released.get("vision_config") or {})
        if "in_channels" not in vision and "in_chans" in vision:
            vision["in_channels"] = vision["in_chans"]
        _check_supported(text, vision)
        rope = {"rope_theta": text.get("rope_theta", 1e6), **rope_settings(text)}
        values = pick(text, TEXT_KEYS) | pick(released, TOKEN_KEYS, optional=True)
        values |= end_tokens(text)
        picked = pick(vision, _VISION_KEYS, optional=True)
        picked["full_attention_layers"] = tuple(picked.get("full_attention_layers", (7, 15, 23, 31)))
        return cls(
            **values,
            rope_theta=float(rope["rope_theta"]),
            mrope_section=tuple(rope.get("mrope_section", (16, 24, 24))),
            tie_embeddings=bool(released.get("tie_word_embeddings") or text.get("tie_word_embeddings")),
            vision=VisionConfig(**picked),
        )

    def to_dict(self) -> dict[str, Any]:
        """Write the released `config.json`, in a spelling that transformers 4 and 5 both read."""
        section = list(self.mrope_section)
        text = {
            "model_type": "qwen2_5_vl_text",
            **{theirs: getattr(self, ours) for ours, theirs in TEXT_KEYS.items()},
            "hidden_act": "silu",
            "rope_theta": self.rope_theta,
            "rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": section},
            "use_sliding_window": False,
            "tie_word_embeddings": self.tie_embeddings,
            "bos_token_id": self.pad_token,
            "eos_token_id": self.eos_token,
            "pad_token_id": self.pad_token,
        }
        vision = {theirs: getattr(self.vision, ours) for ours, theirs in _VISION_KEYS.items()}
        vision |= {
            "model_type": "qwen2_5_vl",
            "hidden_act": "silu",
            "fullatt_block_indexes": list(self.vision.full_attention_layers),
        }
        return {
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "model_type": "qwen2_5_vl",
            **{theirs: getattr(self, ours) for ours, theirs in TOKEN_KEYS.items()},
            "tie_word_embeddings": self.tie_embeddings,
            "text_config": text,
            "vision_config": vision,
        }


def pick(
    released: Mapping[str, Any],
    keys: Mapping[str, str],
    *,
    optional: bool = False,
    family: str = "Qwen2.5-VL",
) -> dict[str, Any]:
    """Return the values of released keys under our names.

    Raises ConfigError where one is no number or, unless they are optional, missing.
    """
    missing = [theirs for theirs in keys.values() if theirs not in released]
    if missing and not optional:
        raise ConfigError(f"expected a {family} config.json, found no {', '.join(missing[:4])} in it")
    picked = {ours: released[theirs] for ours, theirs in keys.items() if theirs in released}
    for ours, value in picked.items():
        if not isinstance(value, int | float | list | tuple):
            raise ConfigError(f"expected a number for {keys[ours]} in config.json, found {value!r}")
    return picked


def end_tokens(text: Mapping[str, Any]) -> dict[str, int]:
    """Return the tokens that end and pad a text, where a config names them; of several ends the first."""
    values = {}
    for ours, theirs in (("eos_token", "eos_token_id"), ("pad_token", "pad_token_id")):
        token = text.get(theirs)
        token = token[0] if isinstance(token, list) else token
        if token is not None:
            values[ours] = token
    return values


def rope_settings(text: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the rotary settings: `rope_parameters` in transformers 5, `rope_scaling` in 4."""
    return text.get("rope_parameters") or text.get("rope_scaling") or {}


def _check_supported(text: Mapping[str, Any], vision: Mapping[str, Any]) -> None:
    """Refuse settings that no released checkpoint uses and this model does not implement."""
    kind = rope_settings(text).get("rope_type", rope_settings(text).get("type", "default"))
    if kind not in ("default", "mrope"):
        raise ConfigError(f"expected plain rotary embeddings, found {kind!r}, which is not supported")
    if text.get("use_sliding_window"):
        raise ConfigError("expected full attention, found use_sliding_window=true, which is not supported")
    for part in (text, vision):
        if (act := part.get("hidden_act", "silu")) != "silu":
            raise ConfigError(f"expected hidden_act='silu', found {act!r}, which is not supported")
