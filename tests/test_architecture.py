"""The architecture, as the imports have it: read from the source with `ast`, so that a module need not run to be judged."""

import ast
import subprocess
import sys
from fnmatch import fnmatchcase
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# kqv from top to bottom. A module imports from its own row and from those below it; a new one gets its place here.
LAYERS = (
    ("kqv",),
    ("kqv.engine",),
    ("kqv.generate",),
    ("kqv.batch",),
    ("kqv.rows",),
    ("kqv.inputs", "kqv.recorder"),
    ("kqv.watch",),
    ("kqv.tokenizer", "kqv.checkpoints", "kqv.checkpoints.*", "kqv.store"),
    ("kqv.huggingface", "kqv.huggingface.*"),
    ("kqv.analysis",),
    ("kqv.show",),
    ("kqv.looks",),
    ("kqv.selection", "kqv.sampling"),
    ("kqv.diagnostics", "kqv.overrides"),
    ("kqv.decoding", "kqv.laid_out"),
    ("kqv.network",),
    ("kqv.transformer",),
    ("kqv.attention.packed", "kqv.attention.multi_head"),
    ("kqv.native.attention", "kqv.gpu", "kqv.gpu.*"),
    ("kqv.attention.lowering",),
    ("kqv.attention.maps",),
    ("kqv.attention.foresight",),
    ("kqv.attention.sight", "kqv.attention.call"),
    ("kqv.attention", "kqv.attention.attend"),
    ("kqv.attention.variants", "kqv.attention.streaming"),
    ("kqv.attention.statistics",),
    ("kqv.attention.relations",),
    ("kqv.attention.longformer", "kqv.attention.linformer", "kqv.attention.performer"),
    ("kqv.attention.dense", "kqv.attention.fused"),
    ("kqv.attention.result", "kqv.attention.biases"),
    ("kqv.attention.masks", "kqv.attention.drawing"),
    ("kqv.native.decoder", "kqv.native.stack"),
    ("kqv.native.panels",),
    ("kqv.native.matrices", "kqv.native.figures", "kqv.native.relations", "kqv.native.shapes"),
    ("kqv.native", "kqv.native.library", "kqv.native.structures", "kqv.native.arena"),
    ("kqv.cache", "kqv.packing", "kqv.positions", "kqv.scratch"),
    ("kqv.config",),
    ("kqv.drawing",),
    ("kqv.errors",),
)

# All that the engine may need, so that it runs in a notebook or on a GPU machine without the server.
ENGINE_NEEDS = {"torch", "numpy", "safetensors", "tokenizers", "jaxtyping", "filelock", "gguf", "lazy_loader"}
OPTIONAL = {"kqv.huggingface": {"transformers"}, "kqv.show": {"matplotlib"}, "kqv.gpu": {"triton"}}
"""What a package needs beyond that, which is imported only where a model calls for it."""
STANDARD_LIBRARY = sys.stdlib_module_names - {"asyncio", "http"}
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb"}


def find_modules() -> dict[str, Path]:
    """Source files of both packages by module name; `__main__` is a script, not a module."""
    files = sorted(file for package in ("kqv", "service") for file in (ROOT / package).rglob("*.py") if file.stem != "__main__")
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


MODULES = find_modules()
TREES = {module: ast.parse(file.read_text(encoding="utf-8")) for module, file in MODULES.items()}
ENGINE = [module for module in MODULES if module.split(".")[0] == "kqv"]


def imports(module: str) -> set[str]:
    """Every module that the source names in an import, wherever it stands: at the top, in a function, under TYPE_CHECKING."""
    package = module if MODULES[module].stem == "__init__" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            names = (f"{source}.{alias.name}" for alias in node.names)
            found |= {name if name in MODULES else source for name in names}
    return found


def layer(module: str) -> int:
    """The module's row in LAYERS, counted from the top."""
    rows = [row for row, patterns in enumerate(LAYERS) if any(fnmatchcase(module, pattern) for pattern in patterns)]
    assert len(rows) == 1, f"{module} is in {len(rows)} rows of LAYERS in {Path(__file__).name}: give it its one place there"
    return rows[0]


def run(script: str, **environment: str) -> None:
    """The script in an interpreter of its own, warnings being errors there too."""
    command = [sys.executable, "-B", "-W", "error", "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ENGINE)
def test_engine_imports_point_downwards(module: str) -> None:
    higher = {name for name in imports(module) if name in ENGINE and layer(name) < layer(module)}
    assert not higher, f"{module} imports from above itself"


@pytest.mark.parametrize("module", ENGINE)
def test_engine_runs_without_the_server(module: str) -> None:
    optional = set().union(*(needs for package, needs in OPTIONAL.items() if module.startswith(package)))
    foreign = {name.split(".")[0] for name in imports(module)} - {"kqv"} - ENGINE_NEEDS - STANDARD_LIBRARY - optional
    assert not foreign, f"{module} imports what the engine must do without"


@pytest.mark.parametrize("module", sorted({*ENGINE} - {"kqv.store"}))  # the store hands its environment on to pip
def test_engine_reads_no_environment(module: str) -> None:
    nodes = list(ast.walk(TREES[module]))
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    imported = {node.name for node in nodes if isinstance(node, ast.alias)}
    assert not (attributes | imported) & ENVIRONMENT, f"{module} reads the environment: settings are arguments in kqv"


def test_no_imports_run_in_a_circle() -> None:
    TopologicalSorter({module: imports(module) & MODULES.keys() for module in MODULES}).prepare()


def test_every_row_of_the_architecture_exists() -> None:
    gone = [pattern for row in LAYERS for pattern in row if not any(fnmatchcase(module, pattern) for module in ENGINE)]
    assert not gone, "LAYERS names modules that are no more"


PROBE = """
import sys, threading

def refuse(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "subprocess.Popen"):
        raise AssertionError(f"an import may not do this: {event} {arguments}")

def probe():
    raise AssertionError("an import may not look for devices")

import torch
torch.cuda.is_available = torch.cuda.device_count = probe
sys.addaudithook(refuse)
"""


def test_importing_does_nothing(tmp_path: Path) -> None:
    imported = "\n".join(f"import {module}" for module in MODULES)
    run(f"{PROBE}\n{imported}\nassert threading.active_count() == 1, threading.enumerate()", HOME=str(tmp_path))
    assert not list(tmp_path.iterdir()), "an import wrote into the home directory"


def test_client_runs_without_the_engine_and_the_server() -> None:
    heavy = {"torch", "tokenizers", "transformers", "fastapi", "starlette", "pydantic", "uvicorn"}
    run(f"import service.client, sys; assert not {heavy} & sys.modules.keys()")
