"""Our 2.1 denoiser against the reference transformer, same weights, fp32."""

import math
from dataclasses import dataclass

import pytest
import torch

from danqing.errors import RequestError
from danqing.models.rope import GridShape
from danqing.models.single_stream import (
    SingleStream,
    SingleStreamConfig,
    join_prefixes,
    references_before,
)
from tests.parity import peer_parts as parts

diffusers = pytest.importorskip("diffusers")

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Document:
    """Text runs, a reference after each but the last, and the target's size."""

    runs: tuple[int, ...]
    references: tuple[tuple[int, int], ...]
    target: tuple[int, int]

    @property
    def shapes(self):
        return [GridShape(1, *size) for size in self.references]

    @property
    def before(self):
        return tuple(sum(self.runs[: index + 1]) for index in range(len(self.references)))

    @property
    def slots(self):
        """The conditioner's picture tokens, True, among its text tokens."""
        marks = []
        for run, size in zip(self.runs, [*self.references, (0, 0)], strict=True):
            marks += [False] * run + [True] * (math.prod(size) // 4)
        return torch.tensor(marks)


DOCUMENTS = {
    "text": Document((7,), (), (4, 4)),
    "odd": Document((5,), (), (3, 4)),
    "row": Document((5,), (), (1, 8)),
    "one": Document((3, 6), ((4, 6),), (4, 4)),
    "two": Document((2, 3, 5), ((4, 2), (5, 4)), (3, 8)),
    "three": Document((2, 3, 1, 4), ((2, 2), (7, 4), (4, 3)), (2, 6)),
    "neighbours": Document((2, 0, 3), ((2, 4), (2, 2)), (4, 4)),
    "picture last": Document((2, 0), ((4, 4),), (4, 2)),
    "picture first": Document((0, 3), ((4, 4),), (4, 2)),
    "ten": Document((2, *[1] * 9, 4), ((2, 4), (4, 2)) * 5, (4, 4)),
}


@pytest.fixture(scope="module")
def pair():
    """The reference transformer and ours with the same weights."""
    reference = parts.randomize(diffusers.QwenImage21Transformer2DModel(**parts.DIT21), 34)
    ours = SingleStream(SingleStreamConfig(**parts.DIT21)).eval()
    ours.load_state_dict(reference.state_dict())
    return reference, ours


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + 1000 * seed))


def close(ours, expected, atol):
    torch.testing.assert_close(ours, expected, rtol=0, atol=atol)


@dataclass
class Inputs:
    """What the reference and ours are given for one document."""

    features: torch.Tensor
    references: torch.Tensor
    target: torch.Tensor
    sigma: torch.Tensor


def inputs(document, batch=1, seed=0, dtype=torch.float32):
    tokens = sum(math.prod(size) for size in document.references)
    return Inputs(
        features=draw(batch, len(document.slots), 64, seed=seed).to(dtype),
        references=draw(batch, tokens, 64, seed=seed + 1).to(dtype),
        target=draw(batch, math.prod(document.target), 64, seed=seed + 2).to(dtype),
        sigma=torch.linspace(0.9, 0.3, batch),
    )


@torch.no_grad()
def run_reference(reference, document, given, cache=None, mode=None):
    slots = torch.cat((document.slots, torch.ones(math.prod(document.target) // 4, dtype=torch.bool)))
    batch, dtype = given.target.shape[0], given.target.dtype
    out = reference(
        hidden_states=torch.cat((given.references, given.target), dim=1),
        encoder_hidden_states=given.features,
        timestep=(1000 * given.sigma).to(dtype) / 1000,
        img_shapes=[[*document.shapes, GridShape(1, *document.target)]] * batch,
        img_mask=slots.expand(batch, -1),
        kv_cache=cache,
        kv_cache_mode=mode,
        return_dict=False,
    )[0]
    return out[:, -given.target.shape[1] :]


def read(ours, document, given, modulation, lengths=None):
    return ours.prefix(
        given.features[:, ~document.slots],
        modulation,
        references=given.references if document.references else None,
        shapes=document.shapes,
        before=document.before,
        lengths=lengths,
    )


@torch.no_grad()
def run_ours(ours, document, given):
    modulation = ours.modulate(given.sigma)
    prefix = read(ours, document, given, modulation)
    return ours(given.target, prefix, modulation, shape=GridShape(1, *document.target))


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_the_whole_model(pair, document):
    reference, ours = pair
    for batch in (1, 2):
        given = inputs(document, batch)
        close(run_ours(ours, document, given), run_reference(reference, document, given), 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_steps_against_one_prefix(pair, document):
    from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21KVCache

    reference, ours = pair
    cache = QwenImage21KVCache(len(reference.transformer_blocks))
    sigmas = torch.tensor([1.0, 0.6, 0.1])
    table, given = ours.modulation_table(sigmas), inputs(document)
    prefix = read(ours, document, given, table)
    shape = GridShape(1, *document.target)
    for step, mode in enumerate(("extract", "cached", "cached")):
        given.sigma, given.target = sigmas[step : step + 1], draw(1, math.prod(shape), 64, seed=10 + step)
        velocity = ours(given.target, prefix, table.at(step), shape=shape)
        close(velocity, run_reference(reference, document, given, cache, mode), 1e-5)
        close(velocity, run_ours(ours, document, given), 1e-5)
    for layer, keys, values in zip(cache.layer_caches, prefix.keys, prefix.values, strict=True):
        close(keys.transpose(1, 2), layer.k, 1e-5)
        close(values.transpose(1, 2), layer.v, 1e-5)


@torch.no_grad()
def test_rotary_tables(pair):
    from danqing.models.rope import document_end, document_positions, rotation, target_positions

    reference, ours = pair
    for document in (*DOCUMENTS.values(), Document((14, 1024), ((96, 128),), (172, 96))):
        target = GridShape(1, *document.target)
        marks = document.slots.repeat_interleave(torch.where(document.slots, 4, 1))
        marks = torch.cat((marks, torch.ones(math.prod(target), dtype=torch.bool)))
        expected = reference.pos_embed([*document.shapes, target], marks, CPU)
        length = sum(document.runs)
        frames = [document_end(length, document.shapes)]
        positions = (
            document_positions(length, document.shapes, document.before),
            target_positions(target, frames)[0],
        )
        table = rotation(torch.cat(positions), ours.config.axes_dims_rope)
        close(torch.view_as_complex(table), expected, 1e-5)


@torch.no_grad()
def test_modulation(pair):
    reference, ours = pair
    sigma = torch.tensor([1.0, 0.73219, 0.02])
    modulation = ours.modulate(sigma)
    embedded = reference.time_text_embed(sigma, torch.zeros(()))
    still = reference.time_text_embed(torch.zeros(1), torch.zeros(()))
    close(modulation.img, reference.modulation(embedded), 1e-5)
    close(modulation.clean, reference.modulation(still), 1e-5)
    close(modulation.out, reference.norm_out.linear(torch.nn.functional.silu(embedded)), 1e-5)


@torch.no_grad()
def test_the_text_projection(pair):
    reference, ours = pair
    txt = 30 * draw(2, 5, 64)  # the features come without their last norm
    close(ours.txt_in(txt), reference.txt_in(txt), 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["text", "two", "picture first"])
def test_rows_with_texts_of_different_lengths_are_their_single_runs(pair, name):
    reference, ours = pair
    longest = DOCUMENTS[name]
    shape, given = GridShape(1, *longest.target), inputs(longest, 3)
    cuts = (0, longest.runs[-1] - 1, 1)
    txt = given.features[:, ~longest.slots]
    lengths = [txt.shape[1] - cut for cut in cuts]
    modulation = ours.modulate(given.sigma)
    together = ours(given.target, read(ours, longest, given, modulation, lengths), modulation, shape=shape)
    prefixes, velocities = [], []
    for row, cut in enumerate(cuts):
        document = Document((*longest.runs[:-1], longest.runs[-1] - cut), longest.references, longest.target)
        one = slice(row, row + 1)
        alone = Inputs(
            given.features[one, : len(longest.slots) - cut],
            given.references[one],
            given.target[one],
            given.sigma[one],
        )
        velocities.append(run_reference(reference, document, alone))
        prefixes.append(read(ours, document, alone, modulation))
    close(together, torch.cat(velocities), 1e-5)
    close(ours(given.target, join_prefixes(prefixes), modulation, shape=shape), torch.cat(velocities), 1e-5)


@torch.no_grad()
def test_rows_with_other_references_can_share_a_batch(pair):
    reference, ours = pair
    shape, modulation = GridShape(1, 4, 4), ours.modulate(torch.tensor([0.7]))
    documents = [DOCUMENTS[name] for name in ("one", "text", "ten")]
    givens = [inputs(document, seed=index) for index, document in enumerate(documents)]
    for given in givens:
        given.sigma = torch.tensor([0.7])
    prefixes = [read(ours, *each, modulation) for each in zip(documents, givens, strict=True)]
    target = torch.cat([given.target for given in givens])
    expected = [run_reference(reference, *each) for each in zip(documents, givens, strict=True)]
    close(ours(target, join_prefixes(prefixes), modulation, shape=shape), torch.cat(expected), 1e-5)


@torch.no_grad()
def test_one_prefix_serves_several_pictures(pair):
    _, ours = pair
    document, modulation = DOCUMENTS["one"], ours.modulate(torch.tensor([0.7]))
    given, shape = inputs(document), GridShape(1, 4, 4)
    prefix, target = read(ours, document, given, modulation), draw(3, 16, 64)
    together = ours(target, prefix, modulation, shape=shape)
    for row in range(3):
        close(together[row : row + 1], ours(target[row : row + 1], prefix, modulation, shape=shape), 1e-5)


def test_a_target_may_have_any_size(pair):
    _, ours = pair
    document = Document((4,), (), (3, 5))  # the reference needs a multiple of four tokens
    assert run_ours(ours, document, inputs(document)).shape == (1, 15, 64)


def test_places_of_references_in_the_conditioners_sequence():
    for document in DOCUMENTS.values():
        assert references_before(document.slots, document.shapes) == document.before
    with pytest.raises(RequestError, match=r"one picture token .* for each 2x2 latents"):
        references_before(torch.tensor([True, False]), [GridShape(1, 4, 4)])


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 15, 16, 17, 40])
def test_a_row_of_the_table_does_not_depend_on_the_schedule(pair, length):
    _, ours = pair
    sigmas = torch.linspace(1, 0.02, length)
    table = ours.modulation_table(sigmas)
    for step in {0, length // 2, length - 1}:
        alone = ours.modulation_table(sigmas[step : step + 1])
        assert all(torch.equal(a, b) for a, b in zip(table.at(step), alone, strict=True))
        for a, b in zip(table.at(step), ours.modulate(sigmas[step : step + 1]), strict=True):
            close(a, b, 1e-5)


def test_gradients_reach_what_made_the_prefix(pair):
    reference, ours = pair
    document = DOCUMENTS["two"]
    given = inputs(document)

    def gradients(run):
        given.features = given.features.detach().requires_grad_()
        given.references = given.references.detach().requires_grad_()
        run().square().mean().backward()
        return given.features.grad, given.references.grad

    run_with_grad = torch.enable_grad()(run_ours.__wrapped__)
    reference_with_grad = torch.enable_grad()(run_reference.__wrapped__)
    expected = gradients(lambda: reference_with_grad(reference, document, given))
    for ours_grad, reference_grad in zip(
        gradients(lambda: run_with_grad(ours, document, given)), expected, strict=True
    ):
        close(ours_grad, reference_grad, 1e-5)
        assert reference_grad.abs().max() > 0


def test_bf16_stays_with_the_reference():
    document = DOCUMENTS["two"]
    reference = parts.randomize(diffusers.QwenImage21Transformer2DModel(**parts.DIT21), 34)
    ours = SingleStream(SingleStreamConfig(**parts.DIT21)).eval()
    ours.load_state_dict(reference.state_dict())
    exact = run_reference(reference, document, inputs(document))
    given = inputs(document, dtype=torch.bfloat16)
    frequencies = reference.time_text_embed.time_proj.freqs
    reference.bfloat16().time_text_embed.time_proj.freqs = frequencies  # from_pretrained leaves them alone
    expected = run_reference(reference, document, given)
    low = run_ours(ours.bfloat16(), document, given)
    assert low.dtype == torch.bfloat16
    assert (low - exact).norm() <= 1.2 * (expected - exact).norm()
    assert (low - expected).norm() < 0.01 * exact.norm()
