"""The modulation of a schedule is a table; its layers may be anywhere, or gone."""

import torch

from danqing.models.mmdit import MMDiT, is_modulation
from danqing.models.rope import GridShape
from tests.tiny import TRANSFORMER, randomized


def test_sampling_needs_no_modulation_layers():
    model = randomized(MMDiT(TRANSFORMER), 1)
    generator = torch.Generator().manual_seed(0)
    img, txt = torch.randn(1, 6, 64, generator=generator), torch.randn(1, 5, 32, generator=generator)
    sigmas = torch.tensor([1.0, 0.7, 0.2])
    table = model.modulation_table(sigmas)
    with torch.no_grad():
        whole = model(img, txt, model.modulate(sigmas[1:2]), shapes=[GridShape(1, 2, 3)])
        for name, parameter in list(model.named_parameters()):
            if is_modulation(name):
                owner = model.get_submodule(name.rpartition(".")[0])
                setattr(owner, name.rpartition(".")[2], torch.nn.Parameter(parameter.to("meta")))
        gone = model(img, txt, table.at(1), shapes=[GridShape(1, 2, 3)])
    assert torch.allclose(whole, gone, atol=1e-6)


def test_a_third_of_the_released_weights_serve_modulation_alone():
    from danqing.models.mmdit import MMDiTConfig

    with torch.device("meta"):
        released = MMDiT(MMDiTConfig())
    sizes = {name: parameter.numel() for name, parameter in released.named_parameters()}
    assert sum(sizes.values()) == 20_430_401_088
    assert (
        0.33 < sum(size for name, size in sizes.items() if is_modulation(name)) / sum(sizes.values()) < 0.34
    )
