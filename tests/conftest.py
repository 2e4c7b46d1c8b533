"""What all tests share: every random draw is the same in every run."""

import os
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: threads that wait by spinning starve a busy machine

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


REAL = frozenset({"minilm", "smollm2", "ruaccent"})


@pytest.fixture(autouse=True)
def _threads(request: pytest.FixtureRequest) -> None:
    """Two for real models. For tiny ones a second thread costs more than it does, and on a busy machine they wait for each other.

    It is said at all because the order of a sum, and so its last bits, depends on it.
    """
    torch.set_num_threads(2 if REAL.intersection(request.fixturenames) else 1)


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
