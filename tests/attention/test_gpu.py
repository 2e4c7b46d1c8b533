"""The GPU's kernel against the whole map in float64: on a GPU where there is one, else in Triton's interpreter."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from calls import HALF, assert_same, known, make_call, reference
from hypothesis import given, settings
from hypothesis import strategies as st
from tools import package
from torch import Tensor

import kqv
from kqv.attention.biases import Linear, Relative, Tabulated, alibi_slopes
from kqv.attention.masks import Causal, Everything, Table, Window
from kqv.attention.packed import attend_packed, observe_packed
from kqv.attention.statistics import QUANTITIES
from kqv.gpu import attention as gpu
from kqv.gpu.attention import Blocks
from kqv.native import attention as native

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = Blocks(rows=64, keys=16, warps=4, stages=1)
"""So that short sequences have many tiles, some whole and some in part."""


@pytest.fixture(autouse=True)
def _needs_triton() -> None:
    package("triton")


def check(
    lengths: list[tuple[int, int]], *, top_k: int = 8, blocks: Blocks | None = None, tolerance: Any = None, **options: Any
) -> None:
    """A call on random numbers gives what the whole map gives."""
    call = make_call(lengths, device=DEVICE, **{"heads": 4, "key_heads": 2} | options)
    tokens = [known(*each, same=call.same, device=DEVICE) for each in lengths]
    several = [max(1, top_k - index) for index in range(len(lengths))]
    found = gpu.attend(call, tokens, several, blocks)
    expected = reference(call, tokens, several)
    assert_same(found, expected, *([tolerance] if tolerance else []))
    assert found.output.dtype == call.q.dtype


RANDOM = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
SAME = [(1, 1), (7, 7), (1, 61), (37, 53)]
CASES: dict[str, Any] = {
    "everything": {"mask": Everything()},
    "causal": {"mask": Causal()},
    "a window": {"mask": Causal() & Window(before=9, after=0)},
    "a window both ways": {"mask": Window(before=19, after=3)},
    "across": {"lengths": [(5, 7), (41, 3), (1, 53)], "mask": Everything(), "group": "cross"},
    "no groups": {"mask": Causal(), "key_heads": 4},
    "one key head": {"mask": Causal(), "key_heads": 1},
    "ALiBi": {"mask": Causal(), "bias": Linear(alibi_slopes(4).to(DEVICE))},
    "T5's bias": {"mask": Everything(), "bias": Relative(RANDOM.to(DEVICE), 128, both_ways=True)},
    "sharp heads": {"mask": Causal(), "sharpness": 20.0},
    "equal scores": {"mask": Causal(), "sharpness": 0.0},
}


@pytest.mark.parametrize("case", CASES)
def test_statistics_equal_the_whole_map(case: str) -> None:
    check(**{"lengths": SAME, "blocks": SMALL} | CASES[case])


@pytest.mark.parametrize("width", [1, 32, 37, 64, 80, 128, 256])
def test_heads_may_be_of_any_width(width: int) -> None:
    check([(23, 23), (3, 71)], mask=Causal(), width=width, heads=2, key_heads=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mask", [Causal(), Everything()], ids=["causal", "everything"])
def test_half_precision_has_sums_in_single(dtype: torch.dtype, mask: Any) -> None:
    check([(70, 70), (1, 40)], mask=mask, dtype=dtype, width=64, heads=4, key_heads=2, tolerance=HALF)


@settings(max_examples=10)
@given(data=st.data())
def test_statistics_equal_the_whole_map_whatever_the_shapes(data: st.DataObject) -> None:
    draw = data.draw
    key_heads, shared = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    keys = draw(st.lists(st.integers(1, 80), min_size=1, max_size=3))
    windows = st.builds(Window, st.integers(0, 50), st.integers(0, 50))
    heads = key_heads * shared
    bias = draw(st.sampled_from([None, Linear(alibi_slopes(heads)), Relative(torch.randn(8, heads), 20, both_ways=False)]))
    check(
        [(draw(st.integers(1, there)), there) for there in keys],
        top_k=draw(st.integers(1, 12)),
        blocks=Blocks(2 ** draw(st.integers(4, 7)), 2 ** draw(st.integers(4, 6)), 4, 1),
        mask=draw(st.one_of(st.just(Everything()), st.just(Causal()), windows, windows.map(lambda window: Causal() & window))),
        bias=bias if DEVICE == "cpu" else None,
        heads=heads,
        key_heads=key_heads,
        width=draw(st.integers(1, 40)),
        sharpness=draw(st.sampled_from([0.0, 1.0, 6.0])),
    )


def test_a_query_that_sees_nothing_has_nothing() -> None:
    call = make_call([(9, 9)], Window(before=3, after=-3), device=DEVICE)  # the key three places before, and no other
    output, quantities = gpu.attend(call, [known(9, 9, device=DEVICE)], [8])
    planes = dict(zip(QUANTITIES, quantities, strict=True))
    assert (output[:3] == 0).all()
    assert planes.pop("logsumexp")[:, :3].isneginf().all()
    assert all((plane[:, :3] == 0).all() for plane in planes.values())
    assert (planes["max_weight"][:, 3:] == 1).all() and (planes["entropy"] == 0).all()
    torch.testing.assert_close(output[3:], call.values[0][:6].repeat_interleave(2, dim=1))


def test_equal_scores_have_their_closed_form() -> None:
    call = make_call([(77, 77)], Causal(), sharpness=0.0, device=DEVICE)
    planes = dict(zip(QUANTITIES, gpu.attend(call, [known(77, 77, device=DEVICE)], [5]).quantities.cpu().double(), strict=True))
    seen = torch.arange(1.0, 78, dtype=torch.float64)
    torch.testing.assert_close(planes["entropy"][3], seen.log(), rtol=0, atol=2e-5)
    torch.testing.assert_close(planes["top_k_mass"][3], (5 / seen).clamp(max=1), rtol=1e-6, atol=0)
    torch.testing.assert_close(planes["distance"][3], (seen - 1) / 2, rtol=1e-5, atol=0)
    torch.testing.assert_close(planes["effective_tokens"][3], seen, rtol=1e-5, atol=0)


def test_scores_beyond_what_half_precision_holds() -> None:
    call = make_call([(40, 40)], Causal(), dtype=torch.float16, device=DEVICE)
    call = replace(call, q=(call.q * 300).round(), keys=((call.keys[0] * 300).round(),))
    output, quantities = gpu.attend(call, [known(40, 40, device=DEVICE)], [8])
    wanted, expected = reference(call, [known(40, 40, device=DEVICE)], [8])
    assert expected[0].max() > 70_000
    torch.testing.assert_close(output.double(), wanted, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(quantities[:7].double(), expected[:7], rtol=2e-3, atol=2e-3)


def before_nothing(tensor: Tensor) -> Tensor:
    """The same numbers elsewhere, and after them what must never be read."""
    room = tensor.new_full((len(tensor) + 64, *tensor.shape[1:]), torch.nan)
    room[: len(tensor)] = tensor
    return room[: len(tensor)]


def test_neighbours_and_where_keys_lie_change_nothing() -> None:
    call = make_call(SAME, Causal(), device=DEVICE)
    tokens = [known(*each, device=DEVICE) for each in SAME]
    together = gpu.attend(call, tokens, [8] * len(SAME), SMALL)
    elsewhere = replace(call, keys=tuple(map(before_nothing, call.keys)), values=tuple(map(before_nothing, call.values)))
    alone = [gpu.attend(elsewhere.only(index), [tokens[index]], [8], SMALL) for index in range(len(SAME))]
    assert torch.equal(together.output, torch.cat([each.output for each in alone]))
    assert torch.equal(together.quantities, torch.cat([each.quantities for each in alone], dim=-1))


def test_no_bias_is_read_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    call = make_call([(37, 37)], Causal(), Linear(alibi_slopes(4).to(DEVICE)), heads=4, key_heads=2, device=DEVICE)
    offsets = gpu.biased(call)
    room = torch.cat((offsets.numbers.flatten(), torch.full((4096,), 3e38, device=DEVICE)))  # to multiply these is a warning
    monkeypatch.setattr(
        gpu, "biased", lambda call: offsets._replace(numbers=room[: offsets.numbers.numel()].view_as(offsets.numbers))
    )
    gpu.attend(call, [known(37, 37, device=DEVICE)], [8], SMALL._replace(rows=128))


def test_the_output_alone_is_the_same() -> None:
    call = make_call(SAME, Causal(), device=DEVICE)
    plain = gpu.attend(call)
    assert plain.quantities is None
    looked_at = gpu.attend(call, [known(*each, device=DEVICE) for each in SAME], [8] * len(SAME))
    torch.testing.assert_close(plain.output, looked_at.output, rtol=1e-5, atol=1e-6)


@pytest.fixture
def _kernel_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, wherever this runs."""
    monkeypatch.setattr(native, "serves", lambda call, looks: False)
    monkeypatch.setattr(gpu, "runs_on", lambda device: True)


@pytest.mark.usefixtures("_kernel_alone")
def test_a_call_goes_to_the_kernel_where_it_can_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, attend = [], gpu.attend
    monkeypatch.setattr(gpu, "attend", lambda call, *known: seen.append(call) or attend(call, *known))
    call, tokens = make_call([(5, 5), (3, 3)], Causal(), device=DEVICE), [known(5, 5, device=DEVICE), known(3, 3, device=DEVICE)]
    observe_packed(call, tokens, [8, 8])
    attend_packed(call)
    assert seen == [call, call]
    for refused in (
        replace(call, mask=Table(torch.ones(1, 1, 5, 5, dtype=torch.bool).to(DEVICE))),
        replace(call, bias=Tabulated(torch.zeros(1, 1, 5, 5).to(DEVICE))),
        replace(
            call, q=call.q.double(), keys=tuple(key.double() for key in call.keys), values=tuple(v.double() for v in call.values)
        ),
    ):
        observe_packed(refused, tokens, [8, 8])
    assert seen == [call, call]


@pytest.mark.usefixtures("_kernel_alone")
def test_an_analysis_by_the_kernel_is_that_of_the_other_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    model = kqv.load("mini-gpt", device=DEVICE)
    texts = ["one two three one two", "four"]
    options = {"weights": "top", "outputs": ["hidden"]}
    found = model.analyze(texts, **options)
    monkeypatch.setattr(gpu, "runs_on", lambda device: False)
    for one, other in zip(found, model.analyze(texts, **options), strict=True):
        torch.testing.assert_close(one.hidden, other.hidden, rtol=1e-4, atol=1e-4)
        for name, figure in one.attention["decoder"].diagnostics.items():
            torch.testing.assert_close(figure, other.attention["decoder"].diagnostics[name], rtol=1e-3, atol=1e-4, equal_nan=True)


@pytest.mark.skipif("not torch.cuda.is_available()", reason="there is no GPU here")
@pytest.mark.parametrize("name", ["mini-bert", "mini-gpt", "mini-t5"])
def test_a_gpu_finds_what_the_cpu_finds(name: str) -> None:
    texts, options = ["one two three one two", "four"], {"weights": "top", "diagnostics": "all", "outputs": ["hidden"]}
    on_gpu, on_cpu = (kqv.load(name, device=device).analyze(texts, **options) for device in ("cuda", "cpu"))
    for one, other in zip(on_gpu, on_cpu, strict=True):
        torch.testing.assert_close(one.hidden.cpu(), other.hidden, rtol=1e-3, atol=1e-3)
        for group, looked_at in one.attention.items():
            for measure, figure in looked_at.diagnostics.items():
                expected = other.attention[group].diagnostics[measure]
                torch.testing.assert_close(figure.cpu(), expected, rtol=1e-3, atol=1e-3, equal_nan=True)


def test_the_largest_weights_are_summed_exactly_where_many_are_equal() -> None:
    call = make_call([(64, 64)], Everything(), sharpness=0.0, device=DEVICE)
    [mass] = gpu.attend(call, [known(64, 64, device=DEVICE)], [3]).quantities[QUANTITIES.index("top_k_mass")].unique().tolist()
    assert math.isclose(mass, 3 / 64, rel_tol=1e-6)


@pytest.mark.parametrize(("capability", "number", "look"), [("90", "bf16", "look"), ("80", "fp16", "alone")])
def test_the_kernel_compiles_for_cards_that_are_not_here(capability: str, number: str, look: str, tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(Path(kqv.__file__).parents[1])}
    command = [sys.executable, str(Path(__file__).parents[1] / "compiling.py"), capability, number, look]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert ("wgmma.mma_async" if capability == "90" else "mma.sync") in done.stdout
    assert "cp.async.cg" in done.stdout, "keys are not fetched while others are worked on"
