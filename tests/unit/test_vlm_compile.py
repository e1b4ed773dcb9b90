"""The language tower under torch.compile."""

import pytest
import torch

from danqing.models.vlm import VLM
from tests.unit.test_vlm import CONFIG

pytestmark = pytest.mark.compile


@torch.no_grad()
def test_features_compile_into_one_graph():
    vlm = VLM(CONFIG, vision=False, head=False).eval()
    vlm.init_weights(torch.Generator().manual_seed(0), std=0.2)
    ids = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(1))
    compiled = torch.compile(vlm, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(ids), vlm(ids), rtol=0, atol=1e-5)
