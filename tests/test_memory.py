"""Looking at every head takes memory in proportion to the tokens, and never a map's."""

import os

import pytest
import torch

from benchmarks.memory import REFERENCES, one_layer, peak_mb

TOKENS, HEADS = 4096, 12


@pytest.mark.skipif(not os.access(REFERENCES, os.W_OK), reason="this system doesn't tell a process's peak memory")
def test_looking_at_a_long_text_takes_less_than_a_quarter_of_its_maps() -> None:
    model = one_layer(TOKENS)
    ids = [torch.randint(1000, (TOKENS,)).tolist()]
    model.analyze([ids[0][:16]], weights="none", outputs=())
    maps = HEADS * TOKENS**2 * 4 / 1e6
    assert peak_mb(lambda: model.analyze(ids, weights="none", outputs=())) < maps / 4
