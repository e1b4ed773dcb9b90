"""Files that take the place of a checkpoint folder's parts: the folder keeps giving configs and the rest."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from danqing.errors import CheckpointError, RequestError
from danqing.weights.file_names import Part
from danqing.weights.headers import read_header
from danqing.weights.releases import PIPELINES, check_release, identify, zero_cond_of
from danqing.weights.single_file import PartFiles

_TWO_RELEASES = "QwenImageEditPlusPipeline"  # of which one has a switch that no tensor shows


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenParts:
    """Single files of any program in place of parts; what is not given comes from the folder."""

    transformer: Path | None = None
    vae: Path | None = None
    text_encoder: tuple[Path, ...] = ()
    """One file, or for GGUF two: the words and the eyes (`mmproj`)."""
    release: str | None = None
    """Which release the denoiser is of, where its file does not say so."""

    def __post_init__(self) -> None:
        check_release(self.release)
        if self.release is not None and self.transformer is None:
            raise RequestError(f"release: expected a transformer file that is of {self.release}, found none")

    def source(self, part: Part, folder: Path, dtype: torch.dtype) -> Path | PartFiles:
        """Return where the weights of a part are: its given files, or else the folder."""
        given = {"transformer": self.transformer, "vae": self.vae}.get(part)
        files = self.text_encoder if part == "text_encoder" else () if given is None else (given,)
        return PartFiles.open(files, part, dtype=dtype) if files else folder

    def switches(self, pipeline: str) -> dict[str, Any]:
        """Return what a given denoiser changes in the config of a folder of `pipeline`.

        Raises CheckpointError for a file of another release than the folder's, and where nothing says
        whether it is Edit-2509 or Edit-2511, which have the same tensors and different switches.
        """
        if self.transformer is None:
            return {}
        header = read_header(self.transformer)
        found = identify(header)
        if found.kind not in ("transformer", "checkpoint"):
            kind = found.kind.replace("_", " ")
            raise CheckpointError(f"{self.transformer}: expected a denoiser, found {kind}: {found.about}")
        release = self.release or found.release
        if self.release is not None and self.release not in found.releases:
            raise CheckpointError(
                f"{self.transformer}: expected {self.release}, found tensors of {' or '.join(found.releases)}"
            )
        if release is not None and PIPELINES[release] != pipeline:
            raise CheckpointError(
                f"{self.transformer}: a file of {release} needs a folder of {PIPELINES[release]}, "
                f"found one of {pipeline}; choose another --model"
            )
        if pipeline != _TWO_RELEASES:
            return {}
        zero_cond = zero_cond_of(header, self.release)
        if zero_cond is None:
            raise CheckpointError(
                f"{self.transformer}: its tensors do not show whether it is Qwen-Image-Edit-2509 or "
                "Qwen-Image-Edit-2511; say it with --release"
            )
        return {"zero_cond_t": zero_cond}
