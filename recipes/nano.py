"""Make nano from nothing: tokenizer, language tower, eyes, autoencoder, denoiser, and the checkpoint folder.

    danqing train recipes/nano.py --run-dir runs/nano --atlas atlas.safetensors

    danqing train recipes/nano.py --run-dir runs/more --atlas atlas.safetensors --init nano

Every stage resumes where it stopped; a finished stage is skipped. Settings are changed with
`--set flow.steps=20000`; `--stage flow --stage export` runs chosen stages only. With `--init` the denoiser
goes on from a checkpoint whose other parts are taken as they are.
"""

import json
import os
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from danqing.conditioning.images import sheet, to_pixels
from danqing.conditioning.pictures import save_processor
from danqing.conditioning.tokenizer import Tokenizer
from danqing.conditioning.tokenizer_training import train_tokenizer
from danqing.data.atlas import Atlas
from danqing.data.cache import ExampleCache, Mixture, SceneEncoder
from danqing.data.concepts import core_codes
from danqing.data.language.corpus import FIRST_ANSWERS, TALKING, corpus
from danqing.data.pictures import PictureSource
from danqing.data.world import held_out_prompts
from danqing.data.world.shapes import shapes
from danqing.errors import ConfigError
from danqing.model import find_checkpoint
from danqing.models.mmdit import MMDiT, MMDiTConfig
from danqing.models.vae import VAE, VAEConfig
from danqing.models.vision import VisionConfig
from danqing.models.vlm import VLM
from danqing.models.vlm_config import VLMConfig
from danqing.pipelines.components import Components
from danqing.pipelines.generate import GenerateRequest, generate
from danqing.sampling.schedule import ScheduleConfig
from danqing.training.config import TrainConfig, learning_rate_factor, override
from danqing.training.objectives.autoencoder import Autoencoding
from danqing.training.objectives.describing import PICTURE_LIMITS, Seeing, SeeingTrainee
from danqing.training.objectives.flow import Flow
from danqing.training.objectives.language import Language, LanguageTrainee
from danqing.training.objectives.seeing import SceneTokens
from danqing.training.run import Run
from danqing.training.state import load_average
from danqing.training.trainer import train as train_stage
from danqing.weights.layouts import CheckpointInfo, write_folder

VOCABULARY = 5632
TEXTS = 25_000  # scenes whose texts the tokenizer learns from
SIZE = 128  # pixels a side of what is drawn
SKETCHED = 64  # pixels a side of what is drawn first, with a quarter of the tokens
SEEN = 168  # pixels a side of what the conditioner sees: 6 x 6 tokens
CROP = 64  # pixels a side of the autoencoder's training crops
KL_WEIGHT = 3e-4
CONCEPTS = 300  # from the start of the core: what is taught to draw and to see, beside the plain shapes
ENGLISH_STEPS = 400  # in which questions are asked in English alone
ANSWERS_WEIGHT = 2.0
CLOSE_UPS = 256  # of single things or words, a step
SHIFT, FINAL_SHIFT = 3.0, 1.5  # noise shift of the sampler; where that of training ends during the decay


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What a stage of the denoiser learns to draw."""

    after: str | None
    """The stage whose weights it goes on from."""
    size: int = SIZE
    mixture: Mixture
    shift: float = SHIFT
    """Noise shift of training: the higher, the more is learned about what a prompt means."""


ALL_KINDS = Mixture(
    languages={"en": 0.7, "zh": 0.2},  # the ten others share the rest
    shares={"single": 0.7, "count": 0.12, "pair": 0.13, "words": 0.05},
    styles={"flat": 0.75, "3D": 0.25},
)
LONE_THINGS = Mixture(languages={"en": 1.0}, shares={"single": 1.0}, styles={"flat": 1.0})
DENOISED = {
    "things": Drawn(after=None, size=SKETCHED, mixture=LONE_THINGS, shift=12.0),
    "sketch": Drawn(after="things", size=SKETCHED, mixture=ALL_KINDS, shift=5.0),
    "flow": Drawn(after="sketch", mixture=ALL_KINDS),
    "edit": Drawn(after="flow", mixture=replace(ALL_KINDS, edits=0.5)),
}

STAGES = {
    "language": TrainConfig(
        steps=6000, batch_size=64, learning_rate=2e-3, warmup_steps=100, decay_fraction=0.4, ema_decay=0.998,
        optimizer="muon", log_every=20, evaluate_every=500, save_every=250,
    ),
    "answers": TrainConfig(
        steps=14_000, batch_size=32, learning_rate=4e-3, warmup_steps=50, decay_fraction=0.3, ema_decay=0.998,
        optimizer="muon", log_every=20, evaluate_every=250, save_every=250,
    ),
    "vision": TrainConfig(
        steps=20_000, batch_size=32, learning_rate=2e-3, warmup_steps=300, decay_fraction=0.4,
        ema_decay=0.998, optimizer="muon", log_every=50, evaluate_every=1000, save_every=250,
    ),
    "vae": TrainConfig(steps=20_000, batch_size=8, learning_rate=1e-3, decay_fraction=0.4),
    "things": TrainConfig(
        steps=6000, batch_size=128, learning_rate=4e-3, warmup_steps=200, decay_fraction=0.0,
        optimizer="muon", ema_decay=0.998, log_every=20, evaluate_every=400, save_every=200,
    ),
    "sketch": TrainConfig(
        steps=3000, batch_size=128, learning_rate=4e-3, warmup_steps=200, decay_fraction=0.0,
        optimizer="muon", ema_decay=0.998, log_every=20, evaluate_every=400, save_every=200,
    ),
    "flow": TrainConfig(
        steps=3000, batch_size=128, learning_rate=2e-3, warmup_steps=200, decay_fraction=0.25,
        optimizer="muon", ema_decay=0.998, log_every=20, evaluate_every=400, save_every=200,
    ),
    "edit": TrainConfig(
        steps=2000, batch_size=128, learning_rate=1e-3, warmup_steps=100, decay_fraction=0.4,
        optimizer="muon", ema_decay=0.998, log_every=20, evaluate_every=400, save_every=200,
    ),
}  # fmt: skip

VISION = VisionConfig(
    dim=128, hidden_dim=256, num_layers=4, num_heads=4, out_dim=192, full_attention_layers=(0, 1, 2, 3)
)
AUTOENCODER = VAEConfig(base_dim=24, num_res_blocks=1)
DENOISER = MMDiTConfig(
    num_layers=6,
    attention_head_dim=64,
    num_attention_heads=3,
    joint_attention_dim=192,
    axes_dims_rope=(16, 24, 24),
    zero_cond_t=True,
)
SCHEDULE = ScheduleConfig(
    base_shift=float(np.log(SHIFT)), max_shift=float(np.log(SHIFT)), shift_terminal=None
)
INFO = CheckpointInfo(
    name="danqing-nano",
    licence="Apache-2.0",
    languages=("en", "zh", "es", "fr", "de", "pt", "it", "ja", "ko", "ru", "ar", "hi"),
    size=(SIZE, SIZE),
    min_side=96,
    max_side=192,
    steps=24,
    guidance=3.0,
    max_length=64,
    reference_area=SIZE * SIZE,
    vision_area=SEEN * SEEN,
    about="Being taught 300 things in four styles on coloured backgrounds; its card says how far it is.",
)


def train(run: Run) -> None:
    """Run all stages, or the chosen ones, until they are finished or the time is up."""
    stages = override(STAGES, run.settings)
    deadline = None if run.max_seconds is None else time.monotonic() + run.max_seconds
    atlas = Atlas.load(run.atlas)
    steps = {
        "tokenizer": lambda: make_tokenizer(run, atlas),
        "language": lambda: train_language(run, atlas, "language", stages["language"], deadline),
        "answers": lambda: train_language(run, atlas, "answers", stages["answers"], deadline),
        "vision": lambda: train_vision(run, atlas, stages["vision"], deadline),
        "vae": lambda: train_vae(run, atlas, stages["vae"], deadline),
        **{name: partial(train_denoiser, run, atlas, name, stages[name], deadline) for name in DENOISED},
        "export": lambda: export(run, atlas, stages, run.run_dir / "nano"),
    }
    if run.init is not None:
        steps = {name: steps[name] for name in ("flow", "edit", "export")}
    if unknown := set(run.stages) - set(steps):
        raise ConfigError(f"--stage: expected some of {', '.join(steps)}, found {sorted(unknown)[0]!r}")
    for name, work in steps.items():
        if (not run.stages or name in run.stages) and work() is False:
            return  # the time is up: later stages need this one finished


def make_tokenizer(run: Run, atlas: Atlas) -> None:
    """Learn the vocabulary from texts about scenes in twelve languages."""
    folder = run.run_dir / "tokenizer"
    if not folder.is_dir():
        train_tokenizer(corpus(np.random.default_rng(0), atlas, TEXTS), VOCABULARY).save(folder)


def train_language(run: Run, atlas: Atlas, stage: str, config: TrainConfig, deadline: float | None) -> bool:
    """Train the language tower to read ("language") and to answer ("answers"); then it is frozen."""
    tokenizer = Tokenizer.load(run.run_dir / "tokenizer")
    torch.manual_seed(config.seed)
    vlm = VLM(vlm_config(tokenizer), vision=False)
    vlm.init_weights(torch.Generator().manual_seed(config.seed))
    trainee, curriculum, answers, close_ups = LanguageTrainee(vlm), None, 0.0, 0
    if stage == "answers":
        trainee.load_state_dict(load_average(run.run_dir / "language"))
        mixtures = {0: FIRST_ANSWERS, ENGLISH_STEPS: TALKING}
        curriculum = {step: replace(mixture, codes=taught()) for step, mixture in mixtures.items()}
        answers, close_ups = ANSWERS_WEIGHT, CLOSE_UPS
    objective = Language(
        atlas,
        tokenizer,
        batch_size=config.batch_size,
        seed=config.seed,
        curriculum=curriculum,
        answers=answers,
        close_ups=close_ups,
    )
    return _train(run, objective, trainee, config, stage, deadline)


def train_vision(run: Run, atlas: Atlas, config: TrainConfig, deadline: float | None) -> bool:
    """Train the vision tower and its merger into the frozen language tower."""
    tokenizer = Tokenizer.load(run.run_dir / "tokenizer")
    torch.manual_seed(config.seed)
    vlm = VLM(vlm_config(tokenizer))
    vlm.init_weights(torch.Generator().manual_seed(config.seed))
    vlm.load_state_dict(_part(run, "answers", "vlm."), strict=False)
    tokens = SceneTokens(vlm.config.dim)
    tokens.load_state_dict(_part(run, "answers", "eyes."))
    objective = Seeing(
        atlas,
        tokenizer,
        VISION,
        batch_size=config.batch_size,
        seed=config.seed,
        asked=8,
        asked_from=config.steps // 2,
        codes=taught(),
    )
    return _train(run, objective, SeeingTrainee(vlm, tokens), config, "vision", deadline)


def train_vae(run: Run, atlas: Atlas, config: TrainConfig, deadline: float | None) -> bool:
    """Train the autoencoder, then measure the latents it makes."""
    torch.manual_seed(config.seed)
    source = PictureSource(atlas, size=SIZE)
    objective = Autoencoding(
        source, AUTOENCODER, batch_size=config.batch_size, crop=CROP, seed=config.seed, kl_weight=KL_WEIGHT
    )
    vae = VAE(AUTOENCODER).to(memory_format=torch.channels_last)
    if not _train(run, objective, vae, config, "vae", deadline):
        return False
    statistics = run.run_dir / "vae" / "latents.json"
    if not statistics.exists():
        vae.load_state_dict(load_average(run.run_dir / "vae"))
        pictures = source.pictures(np.random.default_rng(1), 512)
        statistics.write_text(json.dumps(latent_statistics(vae.eval(), to_pixels(np.stack(pictures)))) + "\n")
    return True


def train_denoiser(run: Run, atlas: Atlas, stage: str, config: TrainConfig, deadline: float | None) -> bool:
    """Train the denoiser on encoded scenes, as `DENOISED` says."""
    drawn = DENOISED[stage]
    torch.manual_seed(config.seed)
    model = MMDiT(DENOISER)
    initialise(model)
    if stage == "flow" and run.init is not None:
        trained = find_checkpoint(run.init).transformer(torch.device("cpu"), torch.float32)
        model.load_state_dict(trained.state_dict())
    elif drawn.after is not None:
        model.load_state_dict(load_average(run.run_dir / drawn.after))
    parts = frozen_parts(run)
    encoder = SceneEncoder(
        atlas=atlas,
        vae=parts[0],
        vlm=parts[1],
        tokenizer=parts[2],
        size=drawn.size,
        vision_area=SEEN * SEEN,
        limits=PICTURE_LIMITS,
    )
    prompts = [item.prompt for item in held_out_prompts(16, atlas)]

    def sample(denoiser: nn.Module, path: Path) -> None:
        assert isinstance(denoiser, MMDiT)
        progress = generate(
            components(run, denoiser, parts, drawn.size), [GenerateRequest(prompt=p, seed=0) for p in prompts]
        )
        pictures = [one.image for made in progress for one in made.drawn]
        sheet(to_pixels(np.stack([np.asarray(picture) for picture in pictures])), columns=8).save(path)

    decay = replace(config, warmup_steps=0)

    def shift(step: int) -> float:
        stable = (learning_rate_factor(decay, step) - config.final_fraction) / (1 - config.final_fraction)
        return FINAL_SHIFT + (drawn.shift - FINAL_SHIFT) * stable

    shards = run.run_dir / stage / "examples"
    cache = ExampleCache(
        encoder,
        shards,
        seed=config.seed,
        mixture=replace(drawn.mixture, codes=taught()),
        shard_size=512,
        reuse=6,
        workers=_workers(run),
        atlas=run.atlas,
    )
    objective = Flow(cache, batch_size=config.batch_size, seed=config.seed, shift=shift, sample=sample)
    return _train(run, objective, model, config, stage, deadline)


def export(run: Run, atlas: Atlas, stages: dict[str, TrainConfig], path: Path) -> None:
    """Write the checkpoint folder with the averaged weights, fp16, and what its making took."""
    vae, vlm, tokenizer = frozen_parts(run)
    before = None if run.init is None else find_checkpoint(run.init)
    made = {
        stage: json.loads(file.read_text())
        for stage in stages
        if (file := run.run_dir / stage / "progress.json").exists()
    }
    tasks = ["generate"] if before is None else list(before.info().tasks)
    tasks += [task for stage, task in (("edit", "edit"), ("vision", "describe")) if stage in made]
    write_folder(
        path,
        transformer=(DENOISER, load_average(run.run_dir / ("edit" if "edit" in made else "flow"))),
        vae=(vae.config, vae.state_dict()),
        text_encoder=(vlm.config, vlm.state_dict()),
        schedule=SCHEDULE,
        info=replace(INFO, tasks=tuple(dict.fromkeys(tasks))),
        folded_vae=True,
        dtype=torch.float16,
    )
    tokenizer.save(path / "tokenizer")
    save_processor(path / "processor", tokenizer, VISION, PICTURE_LIMITS)
    if before is not None and (before.path / "making.json").exists():
        made = {"before": json.loads((before.path / "making.json").read_text()), **made}
    (path / "making.json").write_text(json.dumps(made, indent=1) + "\n")


def frozen_parts(run: Run) -> tuple[VAE, VLM, Tokenizer]:
    """Return the finished autoencoder, language tower and tokenizer."""
    if run.init is not None:
        folder, fp32 = find_checkpoint(run.init), torch.float32
        return (
            folder.vae(run.device, fp32),
            folder.vlm(run.device, fp32, vision=True),
            Tokenizer.load(folder.path / "tokenizer"),
        )
    tokenizer = Tokenizer.load(run.run_dir / "tokenizer")
    statistics = json.loads((run.run_dir / "vae" / "latents.json").read_text())
    vae = VAE(replace(AUTOENCODER, **{key: tuple(values) for key, values in statistics.items()}))
    vae.load_state_dict(load_average(run.run_dir / "vae"))
    vlm = VLM(vlm_config(tokenizer))
    vlm.init_weights(torch.Generator().manual_seed(0))  # drawing needs no eyes: they may be trained meanwhile
    for stage in ("vision", "answers"):
        if (run.run_dir / stage).is_dir():
            vlm.load_state_dict(_part(run, stage, "vlm."), strict=False)
    for part in (vae, vlm):
        part.eval().requires_grad_(False).to(run.device)
    return vae.to(memory_format=torch.channels_last), vlm, tokenizer


def taught() -> tuple[str, ...]:
    """Return the concepts that the checkpoint is about."""
    return (*core_codes()[:CONCEPTS], *shapes())


def _part(run: Run, stage: str, prefix: str) -> dict[str, Tensor]:
    """Return the averaged weights of a stage that begin with `prefix`, without it."""
    trained = load_average(run.run_dir / stage)
    return {name.removeprefix(prefix): t for name, t in trained.items() if name.startswith(prefix)}


def components(run: Run, denoiser: MMDiT, parts: tuple[VAE, VLM, Tokenizer], size: int) -> Components:
    """Put a denoiser and the frozen parts together, ready to draw at `size` pixels a side."""
    return Components(
        info=replace(INFO, size=(size, size), min_side=min(size, INFO.min_side)),
        transformer=denoiser,
        vae=parts[0],
        vlm=parts[1],
        tokenizer=parts[2],
        schedule=SCHEDULE,
        device=run.device,
        dtype=torch.float32,
        batch_size=8,
    )


def vlm_config(tokenizer: Tokenizer) -> VLMConfig:
    """Return the conditioner's sizes for this vocabulary."""
    return VLMConfig(
        vocab_size=len(tokenizer),
        dim=192,
        hidden_dim=512,
        num_layers=4,
        num_heads=6,
        num_kv_heads=2,
        mrope_section=(4, 6, 6),
        max_positions=2048,
        tie_embeddings=True,
        image_token=tokenizer.image_pad,
        video_token=tokenizer.video_pad,
        vision_start_token=tokenizer.vision_start,
        vision_end_token=tokenizer.vision_end,
        eos_token=tokenizer.eos,
        pad_token=tokenizer.pad,
        vision=VISION,
    )


@torch.no_grad()
def latent_statistics(vae: VAE, pixels: Tensor) -> dict[str, list[float]]:
    """Return each channel's mean and std over the whole posterior; an unused channel stays near zero."""
    means, variances = zip(*(vae.posterior(part) for part in pixels.split(32)), strict=True)
    mean, variance = torch.cat(means), torch.cat(variances).exp()
    total = mean.var(dim=(0, 2, 3)) + variance.mean(dim=(0, 2, 3))
    return {
        "latents_mean": [round(value, 4) for value in mean.mean(dim=(0, 2, 3)).tolist()],
        "latents_std": [round(value, 4) for value in total.sqrt().tolist()],
    }


@torch.no_grad()
def initialise(model: MMDiT) -> None:
    """Start every block as the identity (adaLN-zero, Peebles and Xie, arXiv 2212.09748)."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            nn.init.xavier_uniform_(parameter)
        elif name.endswith("bias"):
            parameter.zero_()
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("_mod.", "norm_out.", "proj_out.")):
            parameter.zero_()


def _train(
    run: Run, objective, model: nn.Module, config: TrainConfig, stage: str, deadline: float | None
) -> bool:
    workers = 0 if isinstance(objective, Flow) else _workers(run)  # its cache has its own
    _, progress = train_stage(
        objective,
        model,
        config,
        stage=stage,
        run_dir=run.run_dir,
        deadline=deadline,
        device=run.device,
        workers=workers,
    )
    return bool(progress["finished"])


def _workers(run: Run) -> int:
    """Return how many processes prepare data: a GPU would wait for one."""
    return 0 if run.device.type == "cpu" else max(1, (os.cpu_count() or 1) - 2)
