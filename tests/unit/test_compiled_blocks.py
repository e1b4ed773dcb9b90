"""Blocks of denoisers under torch.compile: one graph, the results of eager code."""

import dataclasses

import pytest
import torch

from danqing.errors import RequestError, ResourceError
from danqing.models import compiled
from danqing.models.compiled import check_compiler, compile_blocks
from danqing.models.mmdit import MMDiT
from danqing.models.quantised import Int8Linear
from danqing.models.rope import GridShape
from danqing.models.single_stream import SingleStream
from tests import tiny21
from tests.tiny import TRANSFORMER, randomized

CPU = torch.device("cpu")
CONFIG = dataclasses.replace(TRANSFORMER, num_layers=3)
SIGMAS = torch.tensor([1.0, 0.5])


class Counting:
    """A backend that runs graphs as they are and counts them."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, _inputs):
        self.graphs += 1
        return graph.forward


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@torch.no_grad()
def steps(model, lengths, side=4, references=()):
    """Return the velocities of two steps."""
    shapes = [GridShape(1, side, side), *references]
    seq = sum(shape.height * shape.width for shape in shapes)
    img, txt = draw(len(lengths), seq, 64), draw(len(lengths), max(lengths), 32)
    table = model.modulation_table(SIGMAS)
    layout = model.layout(shapes, max(lengths), lengths, device=CPU)
    return torch.stack([model(img, txt, table.at(step), layout=layout) for step in range(2)])


@torch.no_grad()
def steps21(model, length, side=4, count=2):
    shape, table = GridShape(1, side, side), model.modulation_table(SIGMAS)
    prefix = model.prefix(draw(1, length, 32), table)
    layout = model.layout(prefix, shape)
    img = draw(count, side * side, 64)
    return torch.stack([model(img, prefix, table.at(step), layout=layout) for step in range(2)])


@pytest.fixture
def counting():
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    yield Counting()
    torch.compiler.reset()


@pytest.mark.compile
def test_one_graph_serves_all_blocks_steps_prompts_and_sizes(counting):
    eager, model = (randomized(MMDiT(CONFIG), 1) for _ in range(2))
    compile_blocks(model, backend=counting)
    for lengths, side in (([7, 3], 4), ([9, 2], 4), ([12, 5], 6), ([4, 3], 8)):
        expected = steps(eager, lengths, side)
        torch.testing.assert_close(steps(model, lengths, side), expected, rtol=0, atol=1e-5)
        assert counting.graphs == 1
    for length in (6, 9):  # without padding there is no mask
        steps(model, [length, length])
        assert counting.graphs == 2


@pytest.mark.compile
def test_references_of_a_noise_level_of_their_own_need_a_graph_for_other_sizes(counting):
    eager, model = (randomized(MMDiT(dataclasses.replace(CONFIG, zero_cond_t=True)), 1) for _ in range(2))
    compile_blocks(model, backend=counting)
    look = (GridShape(1, 2, 3),)
    for lengths, side, graphs in (([7, 3], 4, 1), ([9, 2], 4, 1), ([9, 2], 6, 2), ([8, 5], 8, 2)):
        expected = steps(eager, lengths, side, look)
        torch.testing.assert_close(steps(model, lengths, side, look), expected, rtol=0, atol=1e-5)
        assert counting.graphs == graphs


@pytest.mark.compile
def test_one_graph_serves_21(counting):
    config = dataclasses.replace(tiny21.TRANSFORMER, num_layers=3)
    eager, model = (randomized(SingleStream(config), 1) for _ in range(2))
    compile_blocks(model, backend=counting)
    for length, side in ((7, 4), (9, 4), (12, 6)):
        torch.testing.assert_close(steps21(model, length, side), steps21(eager, length, side))
        assert counting.graphs == 1


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
def test_the_compiler_gives_what_eager_code_gives(counting):
    eager, model = (randomized(MMDiT(CONFIG), 1) for _ in range(2))
    compile_blocks(model)
    for lengths in ([7, 3], [9, 2]):
        torch.testing.assert_close(steps(model, lengths), steps(eager, lengths), rtol=0, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize(
    ("device", "variable", "message"),
    [
        ("cpu", "", r"expected a C\+\+ compiler \(g\+\+ or clang\+\+\), found none; install one"),
        ("cpu", "no-such-compiler", r"expected the C\+\+ compiler no-such-compiler that \$CXX names"),
        ("cuda", "", "expected triton, found none"),
    ],
)
def test_a_missing_compiler_is_named(monkeypatch, tmp_path, device, variable, message):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", variable)
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ResourceError, match=message):
        check_compiler(torch.device(device))


def test_layers_of_8_bits_are_not_compiled(monkeypatch):
    monkeypatch.setattr(compiled, "check_compiler", lambda _: None)
    model = randomized(MMDiT(CONFIG), 1)
    model.transformer_blocks[1].attn.to_q = Int8Linear(32, 32, bias=True)
    with pytest.raises(RequestError, match=r"expected plain weights, .* leave --compile out"):
        compile_blocks(model)
    assert not any("forward" in vars(block) for block in model.transformer_blocks)
