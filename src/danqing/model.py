"""The front door: load a checkpoint, one method a task."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from danqing.conditioning.given import Source, open_mask, open_picture, open_transparent
from danqing.conditioning.images import describe_picture
from danqing.device import resolve_device
from danqing.errors import CheckpointError, RequestError
from danqing.log import logger
from danqing.models.compiled import check_compiler, compile_blocks
from danqing.models.controlnet import BlockwiseControlNet
from danqing.pipelines.adapting import AdapterFiles, check_adapters, loras_of, set_loras, with_adapters
from danqing.pipelines.components import Components, load_components
from danqing.pipelines.control import Control
from danqing.pipelines.describe import Describer, DescribeRequest, describe, describer_of
from danqing.pipelines.describe import load_describer as _load_describer
from danqing.pipelines.draw import Drawn, Progress
from danqing.pipelines.edit import EditRequest, edit
from danqing.pipelines.generate import GenerateRequest, generate
from danqing.pipelines.holding import Holding, hold
from danqing.pipelines.layered import LayersRequest, draw_layers
from danqing.pipelines.request import check_task, parameters
from danqing.pipelines.wishes import usual_wishes
from danqing.weights.hub_download import HubPlan, obtain
from danqing.weights.hub_files import is_hub_id, parse_hub_id
from danqing.weights.layouts import CheckpointInfo, Folder
from danqing.weights.parts import GivenParts

SHIPPED = ("nano",)
Lora = str | Path | tuple[str | Path, float]
"""An adapter file, or one and its strength."""
R = TypeVar("R", GenerateRequest, EditRequest)


def find_checkpoint(name: str | Path, given: GivenParts | None = None) -> Folder:
    """Return the checkpoint called `name`: one that is shipped, or a folder in the released layout.

    `given` are files in place of its parts.
    """
    path = Path(name)
    if str(name) in SHIPPED and not path.is_dir():
        path = Path(str(resources.files("danqing") / "checkpoints" / str(name)))
        if not path.is_dir():
            raise CheckpointError(f"expected {name} inside the package, found none; install danqing again")
    if not path.is_dir():
        raise CheckpointError(
            f"expected a shipped model ({', '.join(SHIPPED)}), a checkpoint folder or a repository of the "
            f"hub like Qwen/Qwen-Image, found {name}"
        )
    return Folder(path, given)


def load(
    name: str | Path = "nano",
    *,
    transformer: str | Path | None = None,
    vae: str | Path | None = None,
    text_encoder: str | Path | Sequence[str | Path] | None = None,
    release: str | None = None,
    controlnet: str | Path | None = None,
    loras: Sequence[Lora] = (),
    merge_loras: bool = False,
    lightning: str | Path | None = None,
    lightning_steps: int | None = None,
    tasks: Collection[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    memory: str | int | None = None,
    cache: bool = True,
    compiled: bool = False,
    offline: bool = False,
    accept_licence: bool = False,
) -> "Model":
    """Load a checkpoint: a shipped name, a folder as released, or a hub repository (`owner/name[@tag]`).

    `transformer`, `vae` and `text_encoder` are single files of any program (safetensors in ComfyUI's layouts,
    fp8 with or without scales, int8, GGUF) in place of those parts; a conditioner in GGUF has two, words and
    eyes. `release` says what the transformer file is where the file does not.
    `controlnet` is the folder of a ControlNet that reads the `controls` of requests. `loras` are adapter
    files of any program, or pairs of a file and its strength; they stay beside the weights, or with
    `merge_loras` are added to them. `lightning` is a distilled adapter: it brings its schedule, its steps
    (say `lightning_steps` where its name does not) and no guidance. `tasks` names what will be asked for, so
    that no more is loaded (by default all the checkpoint can do); `device` is auto, cpu, cuda or mps;
    `precision` auto, fp32, bf16, int8 or int4. `memory` is the most to use, in bytes or as 6GB or 50% (by
    default what is free): parts wait on disk as far as that needs it. `cache` keeps what was read of prompts,
    and large modulation tables, for the next time; `compiled` compiles the denoiser's blocks when they first
    run. A repository is downloaded unless `offline`; `accept_licence` accepts one that does not allow all
    uses.

    Raises CheckpointError when files are missing, broken or do not fit, RequestError for what the checkpoint
    cannot do, ResourceError for too little memory or disk. Warns of a licence without commercial use.
    """
    words = _paths(text_encoder)
    own = {"transformer": _path(transformer), "vae": _path(vae)}
    given = GivenParts(**own, text_encoder=words, release=release)
    brought = [part for part, file in {**own, "text_encoder": words}.items() if file]
    return load_folder(
        find_checkpoint(_downloaded(name, tasks, brought, offline, accept_licence), given),
        adapters=AdapterFiles(
            loras=tuple(map(_weighed, loras)),
            merged=merge_loras,
            lightning=_path(lightning),
            lightning_steps=lightning_steps,
        ),
        controlnet=_path(controlnet),
        tasks=tasks,
        device=device,
        precision=precision,
        memory=memory,
        cache=cache,
        compiled=compiled,
    )


def load_folder(
    folder: Folder,
    *,
    adapters: AdapterFiles | None = None,
    controlnet: Path | None = None,
    tasks: Collection[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    memory: str | int | None = None,
    holding: Holding | None = None,
    cache: bool = True,
    compiled: bool = False,
) -> "Model":
    """Load a checkpoint that was found; arguments as for `load`.

    `holding` says how it is held, in place of `precision` and `memory`, where it was chosen for requests that
    are known.
    """
    _show_licence(folder.info())
    files = adapters or AdapterFiles()
    check_adapters(folder, files)
    where = resolve_device(device)
    if compiled:
        check_compiler(where)
    if holding is None:
        wishes = usual_wishes(files.settle(folder.info()), tasks=None if tasks is None else tuple(tasks))
        paths = [path for path, _ in files.chosen]
        holding = hold(
            folder,
            wishes,
            device=where,
            precision=precision,
            memory=memory,
            controlnet=controlnet,
            adapters=paths,
        )
    components = load_components(
        folder,
        device=where,
        dtype=holding.dtype,
        controlnet=controlnet,
        tasks=tasks,
        plan=holding.plan,
        cache=cache,
    )
    model = Model(with_adapters(components, files))
    if compiled:
        for net in (model.components.transformer, model.components.controlnet):
            if net is not None and not isinstance(net, BlockwiseControlNet):
                compile_blocks(net, device=where)
    return model


def load_describer(
    name: str | Path = "nano",
    *,
    text_encoder: str | Path | Sequence[str | Path] | None = None,
    device: str = "auto",
    precision: str = "auto",
    memory: str | int | None = None,
    offline: bool = False,
    accept_licence: bool = False,
) -> Describer:
    """Load of a checkpoint what sees and speaks, and nothing that draws; arguments as for `load`.

    Raises RequestError for a checkpoint that cannot describe.
    """
    words = _paths(text_encoder)
    brought = ["transformer", "vae", *(["text_encoder"] if words else [])]
    local = _downloaded(name, ("describe",), brought, offline, accept_licence)
    return load_describer_folder(
        find_checkpoint(local, GivenParts(text_encoder=words)),
        device=device,
        precision=precision,
        memory=memory,
    )


def load_describer_folder(
    folder: Folder, *, device: str = "auto", precision: str = "auto", memory: str | int | None = None
) -> Describer:
    """Load what sees and speaks of a checkpoint that was found; arguments as for `load`."""
    _show_licence(folder.info())
    check_task(folder.info(), "describe")
    where = resolve_device(device)
    wishes = usual_wishes(folder.info(), tasks=("describe",))
    held = hold(folder, wishes, device=where, precision=precision, memory=memory)
    return _load_describer(folder, device=where, dtype=held.dtype, plan=held.plan)


def _downloaded(
    name: str | Path,
    tasks: Collection[str] | None,
    given: Collection[str],
    offline: bool,
    accept_licence: bool,
) -> str | Path:
    """Return the folder of a repository of the hub, downloaded if need be, and any other name as it is."""
    hub = parse_hub_id(str(name)) if is_hub_id(str(name)) else None
    if hub is None:
        return name

    def told(plan: HubPlan) -> None:
        logger.info(f"{hub}: downloading {plan.to_fetch / 1e9:.1f} GB under {plan.licence.name}")

    return obtain(hub, tasks=tasks, given=given, offline=offline, accept_licence=accept_licence, before=told)


def _weighed(lora: Lora) -> tuple[Path, float]:
    return (Path(lora[0]), lora[1]) if isinstance(lora, tuple) else (Path(lora), 1.0)


def _path(file: str | Path | None) -> Path | None:
    return None if file is None else Path(file)


def _paths(files: str | Path | Sequence[str | Path] | None) -> tuple[Path, ...]:
    if files is None:
        return ()
    return (Path(files),) if isinstance(files, str | Path) else tuple(map(Path, files))


@cache
def _show_licence(info: CheckpointInfo) -> None:
    """Log what the licence forbids, once a process."""
    if info.notice is not None:
        logger.warning(info.notice)


class Model:
    """A loaded checkpoint."""

    def __init__(self, components: Components) -> None:
        self.components = components

    @property
    def info(self) -> CheckpointInfo:
        """How this checkpoint wants to be used: sizes, steps, guidance, licence."""
        return self.components.info

    @property
    def loras(self) -> dict[str, float]:
        """Strengths of the adapters, by the names of their files."""
        return loras_of(self.components)

    def set_loras(self, strengths: Mapping[str, float]) -> None:
        """Weigh attached adapters anew by name, without loading anything; 0 switches one off."""
        set_loras(self.components, strengths)

    def generate(self, prompt: str | GenerateRequest, **options: Any) -> Image.Image | list[Image.Image]:
        """Draw `prompt`; options are the fields of GenerateRequest. With `count` above 1, return a list.

        `image`, `mask` and `controls` may be PIL pictures or paths. Of a checkpoint that knows transparency
        pictures are RGBA. Every parameter is in the picture's
        `info` and goes into the file when it is saved as PNG.
        """
        return self._pictures(_request(GenerateRequest, prompt, options))

    def edit(
        self, pictures: Source | Sequence[Source], instruction: str, **options: Any
    ) -> Image.Image | list[Image.Image]:
        """Change one or more pictures as told; options are the fields of EditRequest.

        Pictures and `mask` may be PIL pictures or paths. With `count` above 1, return a list.
        """
        return self._pictures(_request(EditRequest, instruction, {"pictures": pictures, **options}))

    def layers(self, picture: Source, prompt: str = "", **options: Any) -> list[Image.Image]:
        """Take a picture apart into `count` transparent ones, the lowest first; fields of LayersRequest.

        The prompt says what the whole picture shows; without one the conditioner captions it.
        """
        _check_known(LayersRequest, options)
        request = LayersRequest(picture=open_transparent(picture), prompt=prompt, **options)
        (drawn,) = (one for progress in self.stream(request) for one in progress.drawn)
        return labelled_layers(drawn, self.components)

    def describe(self, pictures: Source | Sequence[Source], ask: str | None = None, **options: Any) -> str:
        """Say what one or more pictures show, or answer a question; options are fields of DescribeRequest."""
        return "".join(self.stream_description(pictures, ask, **options))

    def stream_description(
        self, pictures: Source | Sequence[Source], ask: str | None = None, **options: Any
    ) -> Iterator[str]:
        """Describe, yielding the text piece by piece."""
        _check_known(DescribeRequest, options)
        request = DescribeRequest(pictures=_opened("pictures", pictures), ask=ask, **options)
        return describe(describer_of(self.components), request)

    def stream(
        self, prompt: str | GenerateRequest | EditRequest | LayersRequest, **options: Any
    ) -> Iterator[Progress]:
        """Draw, yielding every step with a preview; the last step of a picture carries it.

        With `pictures` among the options, edit them.
        """
        if isinstance(prompt, LayersRequest):
            return draw_layers(self.components, [prompt])
        if isinstance(prompt, EditRequest) or "pictures" in options:
            return self._stream(_request(EditRequest, prompt, options))
        return self._stream(_request(GenerateRequest, prompt, options))

    def _pictures(self, request: GenerateRequest | EditRequest) -> Image.Image | list[Image.Image]:
        drawn = [one for progress in self._stream(request) for one in progress.drawn]
        pictures = [labelled(one, self.components) for one in drawn]
        return pictures if request.count > 1 else pictures[0]

    def _stream(self, request: GenerateRequest | EditRequest) -> Iterator[Progress]:
        if isinstance(request, EditRequest):
            return edit(self.components, [request])
        return generate(self.components, [request])


def labelled(drawn: Drawn, components: Components) -> Image.Image:
    """Return the picture with everything needed to draw it again in its metadata; inputs are told by name."""
    loras = loras_of(components)
    said: dict[str, Any] = {"model": components.info.name, **({"loras": loras} if loras else {})}
    if components.quantised is not None:  # lossy: the picture is not that of the stored weights
        said["weights"] = components.quantised
    return describe_picture(drawn.image, said | parameters(drawn.request))


def labelled_layers(drawn: Drawn, components: Components) -> list[Image.Image]:
    """Return the layers of a picture, the lowest first, each with what drew it in its metadata."""
    return [labelled(replace(drawn, image=layer), components) for layer in drawn.layers]


def _request(kind: type[R], prompt: str | GenerateRequest | EditRequest, options: dict[str, Any]) -> R:
    if not isinstance(prompt, str):
        if not isinstance(prompt, kind):
            raise RequestError(f"prompt: expected text or a {kind.__name__}, found {type(prompt).__name__}")
        if options:
            raise RequestError(f"expected a request or options, found both ({', '.join(options)})")
        return prompt
    _check_known(kind, options)
    return kind(prompt=prompt, **{name: _opened(name, value) for name, value in options.items()})


def _check_known(kind: type[Any], options: dict[str, Any]) -> None:
    known = set(kind.__dataclass_fields__)
    if unknown := set(options) - known:
        raise RequestError(f"unknown option {sorted(unknown)[0]!r}; known: {', '.join(sorted(known))}")


def _opened(name: str, value: Any) -> Any:
    """Return an option with what stands for a picture opened."""
    if value is None:
        return None
    if name == "mask":
        return open_mask(value)
    if name == "image":
        return open_transparent(value)
    if name == "controls":
        values = value if isinstance(value, list | tuple) else [value]
        return tuple(
            one if isinstance(one, Control) else Control(picture=open_picture(one)) for one in values
        )
    if name == "pictures":
        return tuple(map(open_transparent, value if isinstance(value, list | tuple) else [value]))
    return value
