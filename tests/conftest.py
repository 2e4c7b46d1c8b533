"""What all tests share: every random draw is the same in every run."""

import os
from pathlib import Path

import hypothesis
import pytest
import torch

import kqv
from kqv.store import DEFAULT_STORE, find

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported: its kernels then run anywhere, in NumPy

hypothesis.settings.register_profile("kqv", derandomize=True, deadline=None)
hypothesis.settings.load_profile("kqv")


class TorchRandom:
    """torch's global generator, as Hypothesis wants it: it reseeds before every example."""

    seed = staticmethod(torch.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


TORCH_RANDOM = TorchRandom()  # Hypothesis holds only a weak reference
hypothesis.register_random(TORCH_RANDOM)


@pytest.fixture(scope="session", autouse=True)
def _two_threads() -> None:
    """The order of a sum, and so its last bits, depends on how many threads share it."""
    torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def pulled(name: str) -> Path:
    """Real weights, which `make test` pulls first; a newcomer who can't have them may go on without."""
    try:
        return find(name, DEFAULT_STORE)
    except kqv.CheckpointError:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"needs the real weights: kqv pull {name}")


@pytest.fixture(scope="session")
def minilm_directory() -> Path:
    return pulled("minilm")


@pytest.fixture(scope="session")
def minilm(minilm_directory: Path) -> kqv.Model:
    return kqv.load(minilm_directory)


@pytest.fixture(scope="session")
def smollm2_directory() -> Path:
    return pulled("smollm2")


@pytest.fixture(scope="session")
def smollm2(smollm2_directory: Path) -> kqv.Model:
    return kqv.load(smollm2_directory)


@pytest.fixture(scope="session")
def ruaccent_directory() -> Path:
    return pulled("ruaccent")


@pytest.fixture(scope="session")
def ruaccent(ruaccent_directory: Path) -> kqv.Model:
    return kqv.load(ruaccent_directory)
