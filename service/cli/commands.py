"""`kqv`: pull models, look at what their heads do, serve them, load a server.

A command imports what it needs when it runs, so that `kqv --help`, `pull` and `models` answer without loading torch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.text import Text
from typer.core import TyperGroup

from kqv.errors import InputError, KqvError
from kqv.store import BUILT_IN, DEFAULT_STORE, KNOWN, Progress, find, installed, pull, size_on_disk


class Commands(TyperGroup):
    """Commands whose expected errors are one line on stderr, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KqvError as error:
            Console(stderr=True).print(Text(f"kqv: {error}", style="red"), soft_wrap=True)
            raise typer.Exit(1) from error


app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Store = Annotated[Path, typer.Option(envvar="KQV_STORE", help="The folder that models are kept in.")]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="A model of `kqv models`, or a checkpoint's folder. Repeatable; the first is the default."),
]
Layers = Annotated[list[int] | None, typer.Option("--layer", help="Look at this layer only; -1 is the last. Repeatable.")]
Heads = Annotated[list[int] | None, typer.Option("--head", help="Look at this head only; -1 is the last. Repeatable.")]
Device = Annotated[str | None, typer.Option(help='Where to compute, as torch names it; "auto" is a GPU where there is one.')]


def print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("kqv"))
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")]


@app.callback()
def kqv(version: Version = False) -> None:
    """The K, Q, V of a transformer: attention weights and per-head diagnostics of real models."""


@app.command("pull")
def pull_command(
    name: Annotated[str, typer.Argument(help="A model that `kqv models` lists.")],
    store: Store = DEFAULT_STORE,
) -> None:
    """Download a model into the store."""
    there = name in BUILT_IN or name in installed(store)
    with told(name) as progress:
        folder = pull(name, store, progress)
    typer.echo(f"{name} {'was there already' if there else 'is pulled'}: {folder}")


@contextmanager
def told(name: str) -> Iterator[Progress]:
    """Tell a download's progress on stderr: as a bar on a terminal, as a line at each quarter elsewhere."""
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal:
        yield quarters(name)
        return
    with Bar(TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(name, total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total or None, visible=True)


def quarters(name: str) -> Progress:
    """Progress for a log: a line when another quarter is there."""
    last = -1

    def tell(done: int, total: int) -> None:
        nonlocal last
        quarter = 4 * done // total if total else 0
        if quarter > last:
            last = quarter
            typer.echo(f"{name}: {megabytes(done)} of {megabytes(total)}", err=True)

    return tell


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


@app.command("models")
def models_command(store: Store = DEFAULT_STORE) -> None:
    """List the models that come with kqv, those that can be pulled, and those that are in the store."""
    from service.cli.tables import plain_table

    pulled = installed(store)
    table = plain_table("model", "pulled", "size", "licence", "what")
    for built_in in BUILT_IN.values():
        table.add_row(built_in.name, "built in", megabytes(size_on_disk(built_in.folder)), built_in.licence, built_in.summary)
    for name, known in KNOWN.items():
        size = size_on_disk(pulled[name]) if name in pulled else known.download_size
        table.add_row(name, "yes" if name in pulled else "no", megabytes(size), known.licence, known.summary)
    for name in [name for name in pulled if name not in KNOWN]:
        table.add_row(name, "yes", megabytes(size_on_disk(pulled[name])), "", str(pulled[name]))
    answer(table)


@app.command("analyze")
def analyze_command(
    text: Annotated[str, typer.Argument(help="What the model reads.")],
    model: Annotated[str, typer.Option(help="A model in the store, or a checkpoint's folder.")] = "minilm",
    pair: Annotated[str | None, typer.Option(help="A second segment, for models that read two.")] = None,
    target: Annotated[str | None, typer.Option(help="What an encoder–decoder's decoder reads, in place of its own output.")] = None,
    layers: Layers = None,
    heads: Heads = None,
    device: Device = None,
    store: Store = DEFAULT_STORE,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer of POST /v1/analyze instead, less its timing.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with a map of every head instead: one file, which needs no server.")
    ] = None,
) -> None:
    """Show what the heads of a model look at in a text: a map of all, the sharpest ones, and one of them token by token."""
    from kqv.engine import load
    from kqv.inputs import Input
    from kqv.looks import SIDE
    from service.cli.tables import describe
    from service.wire.encoding import analysis_fields, encode

    loaded = load(model, device=device or "auto", store=store)
    chosen: dict[str, Any] = {"layers": tuple(layers) if layers else None, "heads": tuple(heads) if heads else None}
    weights: dict[str, Any] = {"weights": "top"} if html is None else {"weights": "pooled", "pool": SIDE}
    [analysis] = loaded.analyze([Input(text=text, pair=pair, target=target)], outputs=(), **weights, **chosen)
    if html is not None:
        write(html, analysis.page())
    elif as_json:
        usage = {"sequences": 1, "tokens": len(analysis.tokens or ()) + len(analysis.target_tokens or ())}
        typer.echo(encode({"model": loaded.id, "results": [analysis_fields(analysis)], "usage": usage}).decode())
    else:
        answer(*describe(analysis))


def write(file: Path, text: str) -> None:
    """Raise `InputError` where it can't be written."""
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file} can't be written: {error.strerror}") from error


@app.command("serve")
def serve_command(
    host: Annotated[str | None, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    models: Models = None,
    device: Device = None,
    store: Store = DEFAULT_STORE,
) -> None:
    """Serve models over HTTP; where none is named, those that come with kqv.

    An option overrides its variable, KQV_PORT for --port; the other settings have only variables.
    """
    from pydantic import ValidationError

    from service.settings import Settings

    given: dict[str, Any] = {"host": host, "port": port, "models": models or None, "device": device, "store": store}
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise InputError("; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())) from error
    for name in settings.models:
        find(name, settings.store)  # so that a missing model is told before torch is loaded and the port is taken
    from service.server import serve

    serve(settings)


@app.command("bench")
def bench_command(
    url: Annotated[str, typer.Argument(help="The address of a running server, such as http://127.0.0.1:8000.")],
    connections: Annotated[int, typer.Option(min=1, help="Closed loop: so many at once, each asking when it is answered.")] = 16,
    rate: Annotated[
        float | None, typer.Option(min=0.1, help="Open loop instead: so many requests a second, come what may.")
    ] = None,
    poisson: Annotated[bool, typer.Option("--poisson", help="With --rate: at random times, not at even distances.")] = False,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long.")] = 10.0,
    warm_up: Annotated[float, typer.Option(min=0, help="How many seconds before that, uncounted.")] = 1.0,
    path: Annotated[str, typer.Option(help="The route to POST to.")] = "/v1/analyze",
    fewest: Annotated[int, typer.Option(min=1, help="Words of the shortest sentence.")] = 4,
    most: Annotated[int, typer.Option(min=1, max=1000, help="Words of the longest sentence.")] = 28,
    ask: Annotated[str, typer.Option(help="The request's fields beside its input, as JSON.")] = '{"weights": "none"}',
    headers: Annotated[list[str] | None, typer.Option("--header", help='"Authorization: Bearer KEY", say. Repeatable.')] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Load a running server with sentences of mixed lengths: rates, exact percentiles, outcomes by status."""
    from dataclasses import asdict

    import orjson

    from service.cli.bench import bench, report_table
    from service.cli.load import Load

    load = Load(seconds, connections, rate, poisson, warm_up)
    report = bench(load, url, path, headers or [], (fewest, most), ask)
    if as_json:
        typer.echo(orjson.dumps(asdict(report)).decode())
    else:
        answer(report_table(report))
    if not report.latency_ms:
        raise typer.Exit(1)  # not one success


@app.command("key")
def key_command(name: Annotated[str, typer.Argument(help="What logs and limits will know the key by.")]) -> None:
    """Make an API key: its entry for KQV_API_KEYS_FILE goes to stdout, the key itself to stderr, and nowhere else."""
    from service.http.auth import new_key

    key, entry = new_key(name)
    typer.echo(f"the key of {name}, which is shown this once: {key}", err=True)
    typer.echo(entry)


def answer(*parts: RenderableType) -> None:
    """Print on stdout; where that is no terminal, a line may be longer than terminals are wide."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 132
    for part in parts:
        console.print(part)


if __name__ == "__main__":
    app()
