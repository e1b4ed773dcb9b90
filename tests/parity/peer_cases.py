"""Reference runs: each pipeline of the reference library on a tiny checkpoint, with everything recorded."""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One call of one reference pipeline."""

    checkpoint: str
    pipeline: str
    call: dict[str, object]
    controlnet: str | None = None


def picture(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Return a smooth colourful test picture."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    planes = [0.5 + 0.5 * torch.sin((2 + c + seed) * math.pi * (x * (c + 1) + y * (2 - c))) for c in range(3)]
    if mode == "RGBA":
        planes.append((1.2 - x - 0.3 * y).clamp(0, 1))
    return Image.fromarray((torch.stack(planes, -1) * 255).round().to(torch.uint8).numpy())


def hole(width: int, height: int) -> Image.Image:
    """Return a mask that is white in the middle."""
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (width // 4, height // 4, 3 * width // 4, 3 * height // 4))
    return mask


TEXT = {"prompt": "a red cat on a mat", "negative_prompt": "blurry", "num_inference_steps": 3}
GUIDED = {**TEXT, "true_cfg_scale": 4.0}
PAIR = {
    **GUIDED,
    "prompt": ["a red cat on a mat", "a very long description of two blue dogs"],
    "negative_prompt": ["blurry"] * 2,
}
SMALL = {"height": 64, "width": 96}
SQUARE = {"height": 64, "width": 64}


def cases() -> dict[str, Case]:
    """Return every reference run by name."""
    return _text_cases() | _picture_cases() | _edit_cases() | _version_21_cases()


def _text_cases() -> dict[str, Case]:
    def case(call: dict[str, object]) -> Case:
        return Case(checkpoint="qwen-image", pipeline="QwenImagePipeline", call={**call, **SMALL})

    return {"t2i": case(GUIDED), "t2i_nocfg": case({**TEXT, "true_cfg_scale": 1.0}), "t2i_batch": case(PAIR)}


def _picture_cases() -> dict[str, Case]:
    image, mask = picture(96, 64), hole(96, 64)

    def case(pipeline: str, controlnet: str | None = None, **call: object) -> Case:
        call = {**GUIDED, **SMALL, **call}
        return Case(checkpoint="qwen-image", pipeline=pipeline, call=call, controlnet=controlnet)

    return {
        "img2img": case("QwenImageImg2ImgPipeline", image=image, strength=0.7),
        "inpaint": case("QwenImageInpaintPipeline", image=image, mask_image=mask, strength=0.9),
        "controlnet": case(
            "QwenImageControlNetPipeline",
            "controlnet",
            control_image=picture(96, 64, 1),
            controlnet_conditioning_scale=0.7,
        ),
        "controlnet_inpaint": case(
            "QwenImageControlNetInpaintPipeline",
            "controlnet-inpaint",
            control_image=image,
            control_mask=mask,
            controlnet_conditioning_scale=0.7,
        ),
    }


def _edit_cases() -> dict[str, Case]:
    def case(checkpoint: str, pipeline: str, **call: object) -> Case:
        return Case(checkpoint=checkpoint, pipeline=pipeline, call={**GUIDED, **call})

    plus = "QwenImageEditPlusPipeline"
    inpaint = {"image": picture(64, 64), "mask_image": hole(64, 64), "strength": 0.9}
    layered = {"image": picture(64, 64, 0, "RGBA"), "layers": 2, "resolution": 640}
    several = [picture(80, 64), picture(64, 96, 1)]
    return {
        "edit": case("qwen-image-edit", "QwenImageEditPipeline", image=picture(80, 64), **SQUARE),
        "edit_inpaint": case("qwen-image-edit", "QwenImageEditInpaintPipeline", **inpaint, **SQUARE),
        "edit_2509": case("qwen-image-edit-2509", plus, image=several, **SQUARE),
        "edit_2511": case("qwen-image-edit-2511", plus, image=[picture(80, 64)], **SQUARE),
        "layered": case("qwen-image-layered", "QwenImageLayeredPipeline", **layered),
    }


def _version_21_cases() -> dict[str, Case]:
    def case(call: dict[str, object], checkpoint: str = "qwen-image-2.1", **more: object) -> Case:
        return Case(checkpoint=checkpoint, pipeline="QwenImage21Pipeline", call={**call, **SMALL, **more})

    several = [picture(80, 64, 0, "RGBA"), picture(64, 96, 1)]
    return {
        "t2i_21": case(TEXT),
        "t2i_21_nocache": case(TEXT, use_kv_cache=False),
        "t2i_21_turbo": case({"prompt": TEXT["prompt"]}, "qwen-image-2.1-turbo"),
        "t2i_21_batch": case(PAIR),
        "edit_21": case(GUIDED, image=several, output_resolution=128),
    }


def forward_token_types(pipe) -> None:
    """Hand the 1.x text encoder the token types its M-RoPE needs.

    The 1.x edit pipelines of diffusers 0.42.1 do not pass the processor's mm_token_type_ids on, and
    transformers 5 then silently numbers image tokens like text (diffusers issue 14194). The published models
    were trained with the 3-D positions that transformers 4 derived from input_ids.
    """

    def add(module, args, kwargs):
        if kwargs.get("pixel_values") is not None and kwargs.get("mm_token_type_ids") is None:
            ids = kwargs["input_ids"]
            kwargs["mm_token_type_ids"] = (ids == module.config.image_token_id).to(torch.int32)
        return args, kwargs

    pipe.text_encoder.register_forward_pre_hook(add, with_kwargs=True)


class Tap:
    """Record what goes into and comes out of the text encoder and the denoiser, as `part.call.in.name`."""

    def __init__(self, pipe) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.count: dict[str, int] = {}
        for part in ("transformer", "text_encoder"):
            getattr(pipe, part).register_forward_hook(self._hook(part), with_kwargs=True)

    def _hook(self, part: str):
        def record(module, args, kwargs, output) -> None:
            n = self.count[part] = self.count.get(part, -1) + 1
            for key, value in kwargs.items():
                if torch.is_tensor(value):
                    self.tensors[f"{part}.{n}.in.{key}"] = value
            value = output[0] if isinstance(output, tuple) else getattr(output, "sample", None)
            if part == "text_encoder":
                states = getattr(output, "hidden_states", None)
                value = None if states is None else states[-1]
            if torch.is_tensor(value):
                self.tensors[f"{part}.{n}.out"] = value

        return record


def load_pipeline(folder: Path, case: Case):
    """Return the reference pipeline of `case` over the checkpoints in `folder`."""
    import diffusers as d

    extra = {}
    if case.controlnet:
        extra["controlnet"] = d.QwenImageControlNetModel.from_pretrained(folder / case.controlnet)
    if case.pipeline == "QwenImageEditInpaintPipeline":  # no checkpoint names this class
        components = d.QwenImageEditPipeline.from_pretrained(folder / case.checkpoint).components
        pipe = d.QwenImageEditInpaintPipeline(**components)
    else:
        pipe = getattr(d, case.pipeline).from_pretrained(folder / case.checkpoint, **extra)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def record(folder: Path, case: Case, *, stock: bool = False) -> dict[str, torch.Tensor]:
    """Run `case` with seed 0; return the taps, `latents.STEP`, `images`, `sigmas` and `timesteps`."""
    pipe = load_pipeline(folder, case)
    if not stock:
        forward_token_types(pipe)
    tap, steps = Tap(pipe), {}

    def at_step(_pipe, index, _t, kwargs):
        steps[f"latents.{index}"] = kwargs["latents"]
        return {}

    torch.manual_seed(0)  # ControlNet-inpaint samples its control latents from the global generator
    seeded = torch.Generator().manual_seed(0)
    with torch.no_grad():
        images = pipe(**case.call, generator=seeded, output_type="pt", callback_on_step_end=at_step).images
    if isinstance(images, list):
        images = torch.stack([torch.as_tensor(i) for i in images])
    grid = {"sigmas": pipe.scheduler.sigmas, "timesteps": pipe.scheduler.timesteps}
    tensors = {**tap.tensors, **steps, **grid, "images": images}
    return {name: value.detach().clone().contiguous() for name, value in tensors.items()}


def run(folder: Path, name: str, case: Case, *, stock: bool) -> str:
    """Write `folder`/references/`name`.safetensors and return one line about it."""
    from safetensors.torch import save_file

    start = time.perf_counter()
    tensors = record(folder, case, stock=stock)
    seconds, images = time.perf_counter() - start, tensors["images"]
    path = folder / "references" / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    plain = {k: v for k, v in case.call.items() if isinstance(v, (str, int, float, list))}
    described = json.dumps({k: v for k, v in plain.items() if "Image" not in repr(v)})
    metadata = {
        "pipeline": case.pipeline,
        "checkpoint": case.checkpoint,
        "call": described,
        "stock": str(stock),
    }
    save_file(tensors, path, metadata=metadata)
    mean, std = images.float().mean().item(), images.float().std().item()
    if not (torch.isfinite(images).all() and std > 0.01):
        raise SystemExit(f"{name}: the reference drew a flat or broken picture, std {std}")
    return f"{name:20s} {case.pipeline:36s} {seconds:6.2f} s  {tuple(images.shape)}  {mean:.4f} +- {std:.4f}"
