"""The training loop: resuming, deadlines, settings and averages."""

import dataclasses
import itertools
import json
import multiprocessing
import signal
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from danqing.data.atlas import packaged_atlas
from danqing.data.pictures import PictureSource
from danqing.errors import CheckpointError, ConfigError, DataError
from danqing.models.mmdit import MMDiT
from danqing.models.rope import GridShape
from danqing.models.vae import VAE
from danqing.sampling.path import interpolate, velocity_target
from danqing.training.config import TrainConfig, learning_rate_factor, override
from danqing.training.objectives.autoencoder import Autoencoding
from danqing.training.optim import EMA, build_optimizers
from danqing.training.trainer import train
from tests.tiny import AUTOENCODER, TRANSFORMER, randomized

SHAPE = GridShape(1, 2, 3)
CONFIG = TrainConfig(
    steps=8,
    batch_size=2,
    learning_rate=3e-3,
    warmup_steps=2,
    weight_decay=0.1,
    precision="fp32",
    log_every=1,
    evaluate_every=4,
    save_every=3,
)


class FourPictures:
    """Flow matching of four fixed latents under four fixed texts."""

    def __init__(self, poison: int = -1) -> None:
        generator = torch.Generator().manual_seed(0)
        self.latents = torch.randn(4, 6, 64, generator=generator)
        self.txt = torch.randn(4, 3, 32, generator=generator)
        self.poison = poison

    def batch(self, step):
        generator = torch.Generator().manual_seed(step)
        chosen = torch.randint(4, (2,), generator=generator)
        noise = torch.randn(2, 6, 64, generator=generator)
        return chosen, noise, torch.rand(2, generator=generator)

    def loss(self, model, batch):
        chosen, noise, sigma = batch
        latents = self.latents[chosen]
        noised = interpolate(latents, noise, sigma)
        velocity = model(noised, self.txt[chosen], model.modulate(sigma), shapes=[SHAPE])
        loss = F.mse_loss(velocity, velocity_target(latents, noise))
        if torch.equal(noise, self.batch(self.poison)[1]):
            loss = loss * float("nan")
        return loss, {"sigma": float(sigma.mean())}

    def flops(self, model, batch):
        return 6.0 * batch[1].numel()

    def evaluate(self, model, folder, step):
        assert not model.training
        return {"held_out": self.loss(model, self.batch(10_000))[0].item()}


def fresh():
    return randomized(MMDiT(TRANSFORMER), 1).requires_grad_(True)


def run(folder, config, objective=None, **options):
    model = fresh()
    return (
        *train(objective or FourPictures(), model, config, stage="flow", run_dir=folder, **options),
        model,
    )


def metrics(folder):
    return (folder / "flow" / "metrics.jsonl").read_text()


def state(folder):
    return load_file(folder / "flow" / "state.safetensors")


class StopAt(FourPictures):
    """Crash when a step is reached."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.last = step

    def batch(self, step):
        if step == self.last:
            raise KeyboardInterrupt
        return super().batch(step)


class PassDeadline(FourPictures):
    """Make the clock pass the deadline during a step."""

    def __init__(self, step: int, monkeypatch) -> None:
        super().__init__()
        self.last, self.patch, self.offset = step, monkeypatch, 0.0
        clock = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: clock() + self.offset)

    def batch(self, step):
        if step == self.last:
            self.offset = 1e6
        return super().batch(step)


def assert_same_run(first, second):
    one, other = state(first), state(second)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert metrics(first) == metrics(second)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path, optimizer, monkeypatch):
    config = dataclasses.replace(CONFIG, optimizer=optimizer)
    weights, progress, model = run(tmp_path / "whole", config)
    stopped = run(tmp_path / "parts", config, PassDeadline(4, monkeypatch), deadline=time.monotonic() + 1e5)
    assert (stopped[1]["step"], stopped[1]["finished"]) == (5, False)
    monkeypatch.undo()
    resumed, later, other = run(tmp_path / "parts", config)
    assert (progress["step"], progress["finished"], progress["items"]) == (8, True, 16)
    assert {**later, "seconds": 0} == {**progress, "seconds": 0}
    assert later["seconds"] > stopped[1]["seconds"] > 0
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), other.parameters(), strict=True))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    keys = {name.split(".")[1] for name in state(tmp_path / "whole") if name.startswith("optimizer.")}
    moments = {"step", "exp_avg", "exp_avg_sq"}
    assert keys == (moments if optimizer == "adamw" else moments | {"momentum_buffer"})


class LosesItsFile(FourPictures):
    """Cannot make a batch."""

    def batch(self, step):
        raise FileNotFoundError("lost")


class SignalAt(FourPictures):
    """Send this process a signal during a step."""

    def __init__(self, step: int, number: int) -> None:
        super().__init__()
        self.last, self.number = step, number

    def batch(self, step):
        if step == self.last:
            signal.raise_signal(self.number)
        return super().batch(step)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_its_step_and_goes_on(tmp_path, number, capsys):
    before = signal.getsignal(number)
    run(tmp_path / "whole", CONFIG)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", CONFIG, SignalAt(4, number))
    assert json.loads((tmp_path / "parts" / "flow" / "progress.json").read_text())["step"] == 5
    assert signal.getsignal(number) is before
    assert "flow 5/8  interrupted and saved" in capsys.readouterr().err
    run(tmp_path / "parts", CONFIG)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_crashed_run_repeats_its_last_steps(tmp_path):
    run(tmp_path / "whole", CONFIG)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", CONFIG, StopAt(5))
    assert len(metrics(tmp_path / "parts").splitlines()) == 6  # five steps and one evaluation
    with (tmp_path / "parts" / "flow" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # what a crash leaves of a line
    run(tmp_path / "parts", CONFIG)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_other_processes_make_the_same_batches(tmp_path):
    run(tmp_path / "here", CONFIG)
    run(tmp_path / "there", CONFIG, workers=2)
    assert_same_run(tmp_path / "here", tmp_path / "there")
    assert multiprocessing.active_children() == []


def test_what_fails_in_another_process_fails_here(tmp_path):
    with pytest.raises(FileNotFoundError, match="lost"):
        run(tmp_path, CONFIG, LosesItsFile(), workers=1)
    assert multiprocessing.active_children() == []


def test_a_finished_run_stays_finished(tmp_path):
    run(tmp_path, CONFIG)
    before = state(tmp_path), metrics(tmp_path)
    _, progress, _ = run(tmp_path, CONFIG)
    assert progress["finished"]
    assert metrics(tmp_path) == before[1]
    assert all(torch.equal(value, before[0][name]) for name, value in state(tmp_path).items())


def test_a_deadline_in_the_past_saves_and_does_nothing(tmp_path):
    _, progress, model = run(tmp_path, CONFIG, deadline=time.monotonic() - 1)
    assert (progress["step"], progress["finished"]) == (0, False)
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), fresh().parameters(), strict=True))
    assert run(tmp_path, CONFIG)[1]["finished"]


def test_the_loss_falls_and_metrics_say_so(tmp_path):
    config = dataclasses.replace(CONFIG, steps=60, log_every=20, evaluate_every=30, save_every=100)
    run(tmp_path, config)
    lines = [json.loads(line) for line in metrics(tmp_path).splitlines()]
    evaluated = [line["held_out"] for line in lines if "held_out" in line]
    logged = [line for line in lines if "loss" in line]
    assert [line["step"] for line in lines] == [20, 30, 40, 60, 60]
    before = FourPictures().evaluate(fresh().eval(), tmp_path, 0)["held_out"]
    assert evaluated[1] < evaluated[0] < 0.9 * before
    assert logged[0].keys() == {"step", "loss", "sigma", "gradient_norm", "learning_rate", "items", "flops"}
    assert logged[-1]["items"] == 120
    assert logged[-1]["flops"] == 60 * 6 * 2 * 6 * 64


def test_bf16_keeps_fp32_weights(tmp_path):
    weights, _, model = run(tmp_path, dataclasses.replace(CONFIG, precision="bf16", steps=2))
    assert {value.dtype for value in (*weights.values(), *model.parameters())} == {torch.float32}


def test_a_batch_is_that_of_its_step():
    objective = Autoencoding(
        PictureSource(packaged_atlas(), size=32), AUTOENCODER, batch_size=2, crop=16, seed=0
    )
    assert torch.equal(objective.batch(3).pixels, objective.batch(3).pixels)
    assert torch.equal(objective.batch(3).noise, objective.batch(3).noise)
    assert not torch.equal(objective.batch(3).noise, objective.batch(4).noise)
    assert not torch.equal(objective.batch(3).pixels, objective.batch(4).pixels)


class SameCrops(Autoencoding):
    """Always the first batch, which a few steps can learn."""

    def batch(self, step):
        return super().batch(0)


def test_the_autoencoder_learns(tmp_path):
    source = PictureSource(packaged_atlas(), size=32)
    objective = SameCrops(source, AUTOENCODER, batch_size=2, crop=16, seed=0)
    torch.manual_seed(0)
    vae = VAE(AUTOENCODER)
    config = dataclasses.replace(CONFIG, steps=30, evaluate_every=30)
    _, progress = train(objective, vae, config, stage="vae", run_dir=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "vae" / "metrics.jsonl").read_text().splitlines()]
    assert lines[29]["loss"] < 0.8 * lines[0]["loss"]
    assert lines[-1]["held_out_psnr"] > 3
    assert (tmp_path / "vae" / "sheet-0000030.png").is_file()
    assert progress["flops"] > 0


def test_a_loss_that_is_not_finite_is_a_data_error(tmp_path):
    with pytest.raises(
        DataError, match="expected a finite loss at step 4, found nan; lower the learning rate"
    ):
        run(tmp_path, CONFIG, FourPictures(poison=4))
    assert all(value.isfinite().all() for value in state(tmp_path).values())


def test_gradients_that_are_not_finite_are_a_data_error(tmp_path):
    class Explosive(FourPictures):
        def loss(self, model, batch):
            loss, numbers = super().loss(model, batch)
            return loss + torch.sqrt(0 * model.proj_out.bias.sum()), numbers  # finite, with an infinite slope

    with pytest.raises(DataError, match="expected finite gradients at step 0, found"):
        run(tmp_path, CONFIG, Explosive())


def test_the_state_of_another_run_is_refused(tmp_path):
    run(tmp_path, dataclasses.replace(CONFIG, steps=1))
    with pytest.raises(CheckpointError, match="expected moments of muon, found others; use a new run folder"):
        run(tmp_path, dataclasses.replace(CONFIG, optimizer="muon"))
    small = MMDiT(dataclasses.replace(TRANSFORMER, num_layers=1))
    with pytest.raises(CheckpointError, match="expected the state of this recipe's model"):
        train(FourPictures(), small, CONFIG, stage="flow", run_dir=tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "no progress", "no averages"])
def test_a_damaged_state_is_one_line(tmp_path, damage):
    run(tmp_path, dataclasses.replace(CONFIG, steps=1))
    file = tmp_path / "flow" / "state.safetensors"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-10])
    else:
        kept = {name: value for name, value in load_file(file).items() if not name.startswith("ema.")}
        save_file(load_file(file) if damage == "no progress" else kept, file, metadata=None)
    with pytest.raises(CheckpointError, match=r"\A[^\n]*state.safetensors: expected[^\n]*\Z"):
        run(tmp_path, CONFIG)


def test_warm_up_then_stable_then_decay():
    config = dataclasses.replace(CONFIG, steps=100, warmup_steps=10, decay_fraction=0.3, final_fraction=0.05)
    factors = [learning_rate_factor(config, step) for step in range(100)]
    assert factors[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert factors[10:71] == [1.0] * 61
    assert factors[85] == pytest.approx(0.05 + 0.95 * 0.5)
    assert factors[99] == pytest.approx(0.05 + 0.95 / 30)
    assert all(a > b for a, b in itertools.pairwise(factors[70:]))
    flat = dataclasses.replace(config, warmup_steps=0, decay_fraction=0.0)
    assert {learning_rate_factor(flat, step) for step in range(100)} == {1.0}


def test_the_average_warms_up():
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
        ema = EMA(model, 0.5)
        model.weight.fill_(1.0)
    expected = 0.0
    for step in range(20):
        ema.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay)
        assert ema.weights["weight"].item() == pytest.approx(expected)
    assert model.weight.item() == 1.0
    assert ema.state_dict(model).keys() == model.state_dict().keys()


def test_frozen_weights_are_neither_trained_nor_averaged():
    model = fresh()
    model.txt_in.requires_grad_(False)
    ema = EMA(model, 0.9)
    assert "txt_in.weight" not in ema.weights
    assert ema.state_dict(model)["txt_in.weight"] is not None
    chosen = {id(p) for o in build_optimizers(model, CONFIG) for g in o.param_groups for p in g["params"]}
    assert id(model.txt_in.weight) not in chosen


def test_muon_takes_the_matrices_of_the_blocks():
    model = fresh()
    adamw, muon = build_optimizers(model, dataclasses.replace(CONFIG, optimizer="muon"))
    matrices = {id(p) for p in muon.param_groups[0]["params"]}
    rest = {id(p) for p in adamw.param_groups[0]["params"]}
    for name, parameter in model.named_parameters():
        in_block = name.startswith("transformer_blocks.") and "_mod." not in name
        is_matrix = in_block and parameter.dim() == 2
        assert (id(parameter) in matrices) == is_matrix
        assert (id(parameter) in rest) != is_matrix


def test_settings_are_typed():
    stages = override(
        {"vae": CONFIG, "flow": CONFIG},
        ["flow.steps=1e3", "flow.learning_rate=1e-4", "vae.optimizer=muon", "flow.betas=0.8,0.99"],
    )
    assert (stages["flow"].steps, stages["flow"].learning_rate, stages["flow"].betas) == (
        1000,
        1e-4,
        (0.8, 0.99),
    )
    assert stages["vae"] == dataclasses.replace(CONFIG, optimizer="muon")
    assert override({"vae": CONFIG}, []) == {"vae": CONFIG}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("flow.stepz=3", "unknown key 'stepz'; did you mean 'steps'"),
        ("flwo.steps=3", "unknown stage 'flwo'; did you mean 'flow'"),
        ("xyz.steps=3", "unknown stage 'xyz'; known: flow"),
        ("steps=3", "expected stage.key=value, found 'steps=3'"),
        ("flow.steps", "expected stage.key=value"),
        ("flow.steps=", "expected stage.key=value"),
        ("flow.steps=many", "expected a value of type int, found 'flow.steps=many'"),
        ("flow.steps=2.5", "expected a value of type int"),
        ("flow.steps=inf", "expected a value of type int"),
        ("flow.steps=0", "expected steps of at least 1, found 0"),
        ("flow.learning_rate=fast", "expected a value of type float"),
        ("flow.learning_rate=nan", "expected learning_rate above 0, found nan"),
        ("flow.learning_rate=-1", "expected learning_rate above 0"),
        ("flow.betas=0.9", "expected two betas from 0 to below 1"),
        ("flow.betas=0.9,1.0", "expected two betas"),
        ("flow.betas=a,b", "expected a value of type"),
        ("flow.ema_decay=1.5", r"expected ema_decay in \[0, 1\], found 1.5"),
        ("flow.optimizer=sgd", "expected optimizer adamw or muon, found 'sgd'"),
        ("flow.precision=fp16", "expected precision fp32 or bf16, found 'fp16'"),
        ("flow.decay_fraction=2", r"expected decay_fraction in \[0, 1\]"),
        ("flow.warmup_steps=-1", "expected warmup_steps of at least 0, found -1"),
    ],
)
def test_wrong_settings_are_one_line(setting, message):
    with pytest.raises(ConfigError, match=message) as caught:
        override({"flow": CONFIG}, [setting])
    assert "\n" not in str(caught.value)
