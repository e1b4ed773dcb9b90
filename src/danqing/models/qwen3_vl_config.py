"""Sizes of Qwen3-VL, read from and written as the released `config.json`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from danqing.errors import ConfigError
from danqing.models.qwen3_vision import Qwen3VisionConfig
from danqing.models.vlm_config import TEXT_KEYS, TOKEN_KEYS, end_tokens, pick, rope_settings

_FAMILY = "Qwen3-VL"
_TEXT_KEYS = {**TEXT_KEYS, "head_dim": "head_dim"}
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
    "num_positions": "num_position_embeddings",
    "deepstack_layers": "deepstack_visual_indexes",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Qwen3VLConfig:
    """Sizes and special tokens of the model; the defaults are those of Qwen3-VL-8B."""

    vocab_size: int = 151936
    dim: int = 4096
    hidden_dim: int = 12288
    num_layers: int = 36
    num_heads: int = 32
    num_kv_heads: int = 8
    head_dim: int = 128
    norm_eps: float = 1e-6
    rope_theta: float = 5e6
    mrope_section: tuple[int, int, int] = (24, 20, 20)
    """Frequencies that turn with time, height and width; they add up to half a head and are interleaved."""
    max_positions: int = 262144
    tie_embeddings: bool = False
    """Whether the head is the embedding table; then the checkpoint has no `lm_head.weight`."""
    image_token: int = 151655
    video_token: int = 151656
    vision_start_token: int = 151652
    vision_end_token: int = 151653
    eos_token: int = 151645
    pad_token: int = 151643
    vision: Qwen3VisionConfig = field(default_factory=Qwen3VisionConfig)

    def __post_init__(self) -> None:
        """Check that the sizes fit each other."""
        sizes = (self.vocab_size, self.dim, self.num_layers, self.num_heads, self.num_kv_heads, self.head_dim)
        if min(sizes) < 1:
            raise ConfigError("expected positive sizes of the language tower, found zero or less")
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"num_heads must be a multiple of num_kv_heads, found {self.num_heads=} {self.num_kv_heads=}"
            )
        time, height, width = self.mrope_section
        half = self.head_dim // 2
        if 2 * (time + height + width) != self.head_dim or 3 * height > half + 2 or 3 * width > half:
            raise ConfigError(
                "mrope_section must add up to half of head_dim and take turns, found "
                f"{self.mrope_section=} {self.head_dim=}"
            )
        if self.vision.out_dim != self.dim:
            raise ConfigError(
                f"the vision tower must end in the language width, found {self.vision.out_dim=} {self.dim=}"
            )
        if len(self.vision.deepstack_layers) > self.num_layers:
            raise ConfigError(
                f"expected a language layer for each level of deepstack_layers, found {self.num_layers=} "
                f"{self.vision.deepstack_layers=}"
            )

    @property
    def rope_axes(self) -> tuple[int, ...]:
        """Axis (0 time, 1 height, 2 width) that each rotary frequency turns with: T H W T H W … T T."""
        axes = [0] * (self.head_dim // 2)
        for axis in (1, 2):
            for turn in range(self.mrope_section[axis]):
                axes[axis + 3 * turn] = axis
        return tuple(axes)

    @classmethod
    def from_dict(cls, released: Mapping[str, Any]) -> "Qwen3VLConfig":
        """Read a released `config.json`, written by transformers 4 or 5."""
        text, vision = (released.get(part) or {} for part in ("text_config", "vision_config"))
        _check_supported(text, vision)
        rope = {"rope_theta": text.get("rope_theta", 5e6), **rope_settings(text)}
        picked = pick(vision, _VISION_KEYS, optional=True)
        if "deepstack_layers" in picked:
            picked["deepstack_layers"] = tuple(picked["deepstack_layers"])
        return cls(
            **pick(text, _TEXT_KEYS, family=_FAMILY),
            **pick(released, TOKEN_KEYS, optional=True),
            **end_tokens(text),
            rope_theta=float(rope["rope_theta"]),
            mrope_section=tuple(rope.get("mrope_section", (24, 20, 20))),
            tie_embeddings=bool(released.get("tie_word_embeddings") or text.get("tie_word_embeddings")),
            vision=Qwen3VisionConfig(**picked),
        )

    def to_dict(self) -> dict[str, Any]:
        """Write the released `config.json`, in a spelling that transformers 4 and 5 both read."""
        rope = {
            "rope_type": "default",
            "mrope_section": list(self.mrope_section),
            "mrope_interleaved": True,
        }
        text = {
            "model_type": "qwen3_vl_text",
            **{theirs: getattr(self, ours) for ours, theirs in _TEXT_KEYS.items()},
            "hidden_act": "silu",
            "attention_bias": False,
            "rope_theta": self.rope_theta,
            "rope_scaling": rope,
            "tie_word_embeddings": self.tie_embeddings,
            "bos_token_id": self.pad_token,
            "eos_token_id": self.eos_token,
            "pad_token_id": self.pad_token,
        }
        vision = {theirs: getattr(self.vision, ours) for ours, theirs in _VISION_KEYS.items()}
        vision |= {
            "model_type": "qwen3_vl",
            "hidden_act": "gelu_pytorch_tanh",
            "deepstack_visual_indexes": list(self.vision.deepstack_layers),
        }
        return {
            "architectures": ["Qwen3VLForConditionalGeneration"],
            "model_type": "qwen3_vl",
            **{theirs: getattr(self, ours) for ours, theirs in TOKEN_KEYS.items()},
            "tie_word_embeddings": self.tie_embeddings,
            "text_config": text,
            "vision_config": vision,
        }


def _check_supported(text: Mapping[str, Any], vision: Mapping[str, Any]) -> None:
    """Refuse settings that no released checkpoint uses and this model does not implement."""
    rope = rope_settings(text)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "mrope"):
        raise ConfigError(f"expected plain rotary embeddings, found {kind!r}, which is not supported")
    if not rope.get("mrope_interleaved", True):
        raise ConfigError("expected mrope_interleaved=true, found false, which is not supported")
    if text.get("attention_bias"):
        raise ConfigError("expected attention without biases, found attention_bias=true, not supported")
    for part, expected in ((text, "silu"), (vision, "gelu_pytorch_tanh")):
        if (act := part.get("hidden_act", expected)) != expected:
            raise ConfigError(f"expected hidden_act={expected!r}, found {act!r}, which is not supported")
