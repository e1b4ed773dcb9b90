"""The modulation table of a schedule, kept on disk where making it means to read gigabytes of weights."""

import dataclasses
import hashlib
from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from danqing.models.lora import attached, strengths
from danqing.models.mmdit import MMDiT, ModulationTable, is_modulation
from danqing.pipelines.components import Components
from danqing.weights.result_cache import result_key, tensor_bytes

LARGE = 10**8
"""Parameters of modulation layers from which on their table is kept."""
_KIND = "modulation"


def modulation_table(
    components: Components, model: MMDiT, sigmas: Float[Tensor, " steps"], additional: int | None
) -> ModulationTable:
    """Return the modulation of a schedule, see `MMDiT.modulation_table`; the same whether it was kept or not.

    One that was kept is found by the schedule, the files and the precision of the denoiser and the adapters
    beside its modulation layers; those layers are then not needed.
    """
    key, cache = _key(components, model, sigmas, additional), components.cache
    if key is None or cache is None:
        return model.modulation_table(sigmas, additional)
    if (found := cache.load(_KIND, key)) is not None:
        return ModulationTable(**found)
    table = model.modulation_table(sigmas, additional)
    cache.store(_KIND, key, table._asdict())
    return table


def _key(components: Components, model: MMDiT, sigmas: Tensor, additional: int | None) -> str | None:
    """Return what the table is found by; None where it is not kept."""
    identity = components.identities.get("transformer")
    sizes = (one.numel() for name, one in model.named_parameters() if is_modulation(name))
    if components.cache is None or identity is None or sum(sizes) < LARGE:
        return None
    if (weights := identity.of(model)) is None:
        return None
    return result_key(
        next(model.norm_out.parameters()).device,
        weights=weights,
        config=dataclasses.asdict(model.config),
        dtype=str(components.dtype),
        sigmas=sigmas.tolist(),
        additional=additional,
        adapters=list(_adapters(model)),
    )


def _adapters(model: MMDiT) -> Iterator[tuple[str, float, str]]:
    """Yield what adapters beside modulation layers are: layer, strength and a digest of the numbers."""
    for name, strength in strengths(model).items():
        for layer, delta in attached(model, name).items():
            if strength and is_modulation(layer):
                found = hashlib.sha256(f"{type(delta).__name__} {getattr(delta, 'scale', 1.0)}".encode())
                for factor, tensor in delta.state_dict().items():
                    found.update(f"{factor} {tensor.dtype} {list(tensor.shape)}".encode())
                    found.update(tensor_bytes(tensor))
                yield layer, strength, found.hexdigest()
