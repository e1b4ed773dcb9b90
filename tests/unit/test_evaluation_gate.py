"""Measuring held-out prompts: with a small random model, and with stand-ins whose outcome is known."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import danqing
from danqing.conditioning.tokenizer_training import train_tokenizer
from danqing.data.atlas import packaged_atlas
from danqing.data.world import Prompt, held_out_prompts, render
from danqing.errors import DataError
from danqing.evaluation.digests import weights_digest
from danqing.evaluation.statistics import Rate
from danqing.evaluation.world.gate import floor, measure, measure_drawing
from danqing.evaluation.world.reconstruction import reconstruction
from danqing.evaluation.world.sheets import captioned_sheet
from danqing.models.mmdit import MMDiT, MMDiTConfig
from danqing.models.vae import VAE, VAEConfig
from danqing.models.vision import VisionConfig
from danqing.models.vlm import VLM
from danqing.models.vlm_config import VLMConfig
from danqing.pipelines.generate import GenerateRequest
from danqing.sampling.schedule import ScheduleConfig
from danqing.scoring.match import Verdict, first_concepts
from danqing.weights.layouts import CheckpointInfo, write_folder

REQUEST = GenerateRequest(prompt="-", size=(128, 128), steps=2, guidance=1.0, seed=0)


class OracleStandIn:
    """Stands in for a model in these tests: returns the true render of each held-out prompt."""

    def __init__(self, prompts: list[Prompt]) -> None:
        self.scenes = {prompt.prompt: prompt.scene for prompt in prompts}
        self.calls = 0

    def __call__(self, request: GenerateRequest) -> Image.Image:
        self.calls += 1
        return Image.fromarray(render(self.scenes[request.prompt], packaged_atlas(), 128))


class ShuffledStandIn(OracleStandIn):
    """Stands in for a model that ignores its prompt: returns the true render of the next one."""

    def __init__(self, prompts: list[Prompt]) -> None:
        super().__init__(prompts)
        texts, scenes = list(self.scenes), list(self.scenes.values())
        self.scenes = dict(zip(texts, scenes[1:] + scenes[:1], strict=True))


def small_checkpoint(folder: Path) -> Path:
    """Write a checkpoint of random weights that draws 32 x 32 pixels."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a bird on a blue background"], 900)
    vision = VisionConfig(
        dim=16, hidden_dim=16, num_layers=1, num_heads=2, out_dim=32, full_attention_layers=(0,)
    )
    vlm = VLMConfig(
        vocab_size=1024, dim=32, hidden_dim=32, num_layers=1, num_heads=2, num_kv_heads=1,
        mrope_section=(2, 3, 3), tie_embeddings=True, vision=vision,
    )  # fmt: skip
    mmdit = MMDiTConfig(
        num_layers=1, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    vae = VAEConfig(base_dim=8, num_res_blocks=1)
    write_folder(
        folder,
        transformer=(mmdit, MMDiT(mmdit).state_dict()),
        vae=(vae, VAE(vae).state_dict()),
        text_encoder=(vlm, VLM(vlm).state_dict()),
        schedule=ScheduleConfig(),
        info=CheckpointInfo(
            name="small", licence="Apache-2.0", size=(32, 32), min_side=32, max_side=64, steps=2, guidance=1.0
        ),
    )
    tokenizer.save(folder / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> danqing.Model:
    return danqing.load(small_checkpoint(tmp_path_factory.mktemp("small")), device="cpu", precision="fp32")


def test_a_model_of_random_weights_is_measured_and_resumed(model, tmp_path):
    told = []
    report = measure(model, count=4, seed=5, out=tmp_path, progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert report.score.object.total == 4
    assert report.vae_ceiling is not None
    assert report.seconds > 0
    assert report.settings["steps"] == 2
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(report.to_json())
    again = measure(model, count=4, seed=5, out=tmp_path)
    assert again == replace(report, seconds=None)
    assert measure(model, count=4, seed=6, out=tmp_path).seconds is not None  # other seeds, other pictures


def test_pictures_keep_what_the_model_wrote_into_them(model, tmp_path):
    measure(model, count=1, out=tmp_path)
    (path,) = tmp_path.glob("000-*.png")
    with Image.open(path) as picture:
        assert json.loads(picture.info["danqing"])["seed"] == 0
        assert json.loads(picture.info["gate"])["weights"] == weights_digest(model)


def test_other_weights_have_another_digest(model, tmp_path):
    other = danqing.load(small_checkpoint(tmp_path), device="cpu", precision="fp32")
    assert weights_digest(other) == weights_digest(model)
    other.components.transformer.proj_out.bias.data += 1
    assert weights_digest(other) != weights_digest(model)


def test_the_oracle_stand_in_scores_at_the_ceiling(tmp_path):
    prompts = held_out_prompts(40, codes=first_concepts())
    oracle = OracleStandIn(prompts)
    report = measure_drawing(oracle, REQUEST, settings={"model": "oracle stand-in"}, count=40, out=tmp_path)
    assert report.score == report.ceiling
    assert report.score.both.share >= 0.97
    assert report.floor.object < 0.03
    assert 0.02 < report.floor.background < 0.25
    assert report.vae_ceiling is None
    assert "oracle stand-in" in str(report)
    measure_drawing(oracle, REQUEST, settings={"model": "oracle stand-in"}, count=40, out=tmp_path)
    assert oracle.calls == 40
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 900


def test_a_stand_in_that_ignores_its_prompt_scores_at_the_floor():
    prompts = held_out_prompts(40, codes=first_concepts())
    report = measure_drawing(ShuffledStandIn(prompts), REQUEST, settings={"model": "shuffled"}, count=40)
    assert report.score.object.share <= 0.05
    assert report.ceiling.object.share >= 0.97
    assert len(report.mistakes) >= 38
    assert report.mistakes[0].prompt == prompts[0].prompt


def test_the_floor_counts_every_pair_of_two_prompts(model):
    prompts = held_out_prompts(3, codes=first_concepts())
    seen = [_verdict(prompts[1]), _verdict(prompts[1]), _verdict(prompts[1])]
    assert floor(seen, prompts).object == pytest.approx(2 / 6)


def _verdict(prompt: Prompt) -> Verdict:
    return Verdict(
        background=prompt.background, concept=prompt.concept, style="flat", score=1, runner_up=None, margin=0
    )


def test_more_prompts_than_there_are(model):
    with pytest.raises(DataError, match="ask for fewer"):
        measure(model, count=10_000)


def test_reconstruction_of_held_out_scenes(model, tmp_path):
    vae = model.components.vae
    value = reconstruction(vae, count=4, size=32, out=tmp_path / "pairs.png")
    assert np.isfinite(value)
    assert value == reconstruction(vae, count=4, size=32)
    scenes = [prompt.scene for prompt in held_out_prompts(2, codes=first_concepts())]
    assert reconstruction(vae, scenes, size=32) != value
    with Image.open(tmp_path / "pairs.png") as page:
        assert page.size == (8 * 34 - 2, 32)


def test_wilson_intervals_are_those_of_the_tables():
    rate = Rate.of(90, 100)
    assert (rate.share, rate.low, rate.high) == pytest.approx((0.9, 0.8256, 0.9448), abs=1e-4)
    assert Rate.of(0, 10).low == 0
    assert Rate.of(10, 10).high == pytest.approx(1)
    with pytest.raises(DataError, match="expected 0 <= successes"):
        Rate.of(3, 2)


def test_a_sheet_needs_a_caption_for_each_picture():
    with pytest.raises(DataError, match="as many captions"):
        captioned_sheet([Image.new("RGB", (4, 4))], [])
