"""`danqing describe`: pictures to text."""

import json
from pathlib import Path
from typing import Any

import click

from danqing.cli.hub import hub_options, local_file, local_model, named_hub
from danqing.cli.options import json_option, model_options, use_threads
from danqing.cli.progress import bar

EXAMPLES = """\b
Examples:
  danqing describe apple.png
  danqing describe apple.png --language zh
  danqing describe apple.png --ask "how many apples are there?"
  danqing describe before.png after.png --ask "what has changed?" --model Qwen-Image-Edit-2511
"""


@click.command(epilog=EXAMPLES, short_help="Say what pictures show.")
@click.argument("pictures", nargs=-1, required=True, metavar="PICTURE...", type=click.Path(path_type=Path))
@click.option("--language", metavar="CODE", help="Language of the description.  [default: en]")
@click.option("--ask", metavar="TEXT", help="A question to answer instead.")
@click.option(
    "--max-tokens", type=int, default=256, show_default=True, metavar="N", help="Where an answer is cut."
)
@click.option(
    "--temperature",
    type=float,
    default=0.0,
    show_default=True,
    metavar="T",
    help="0 says the likeliest words; more draws among the likely ones.",
)
@click.option("--seed", type=int, metavar="N", help="The same seed draws the same words.")
@click.option(
    "--text-encoder",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Take the conditioner from a safetensors or GGUF file; of GGUF twice, words and mmproj.",
)
@hub_options
@click.option("--memory", metavar="SIZE", help="Most memory to use: 6GB or 50%.  [default: what is free]")
@model_options
@json_option
@click.option("--quiet", is_flag=True, help="Show no progress.")
def describe(
    pictures: tuple[Path, ...],
    language: str | None,
    ask: str | None,
    max_tokens: int,
    temperature: float,
    seed: int | None,
    text_encoder: tuple[Path, ...],
    model: str,
    device: str,
    precision: str,
    threads: int | None,
    memory: str | None,
    as_json: bool,
    quiet: bool,
    **fields: Any,
) -> None:
    """Say what one or more pictures show, or answer a question about them.

    The conditioner of the model does it, alone: of a released checkpoint nothing else is read. Several
    pictures are one question.
    """
    from danqing.conditioning.given import open_picture
    from danqing.model import find_checkpoint, load_describer_folder
    from danqing.pipelines.describe import DescribeRequest
    from danqing.pipelines.describe import describe as spoken
    from danqing.weights.parts import GivenParts

    request = DescribeRequest(
        pictures=tuple(open_picture(path) for path in pictures),
        ask=ask,
        language=language,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
    ).resolved()
    hub = named_hub(fields)
    files = tuple(local_file(file, hub, quiet=quiet) for file in text_encoder)
    brought = ("transformer", "vae", *(("text_encoder",) if files else ()))
    found = local_model(model, hub, tasks=("describe",), given=brought, quiet=quiet)
    assert found is not None  # nothing asked for a dry run
    folder = find_checkpoint(found, GivenParts(text_encoder=files))
    use_threads(threads)
    with bar(None, quiet=quiet) as shown:
        shown.show(f"loading {model}")
        describer = load_describer_folder(folder, device=device, precision=precision, memory=memory)
    words = []
    for piece in spoken(describer, request):
        words.append(piece)
        if not as_json:
            click.echo(piece, nl=False)
    if not as_json:
        click.echo()
        return
    drawn = {} if request.seed is None else {"temperature": temperature, "seed": request.seed}
    said = {"pictures": [str(path) for path in pictures], "model": describer.info.name}
    click.echo(
        json.dumps({**said, "ask": request.question, **drawn, "text": "".join(words)}, ensure_ascii=False)
    )
