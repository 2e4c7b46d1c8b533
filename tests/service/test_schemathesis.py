"""The service does what its OpenAPI document says: Schemathesis draws requests from that, and judges the answers by it.

It draws few here. For a thorough search, set `KQV_SCHEMATHESIS_CASES` to how many there should be for each operation; `pytest -rP`
says how many there were.
"""

import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import requests
import safetensors.numpy
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance
from serving import listening, make_app

import kqv

CASES = int(os.environ.get("KQV_SCHEMATHESIS_CASES", "12"))
KEY = "0123456789abcdef0123456789abcdef"
SIZES = {"max_body_bytes": 200_000, "max_sequences": 7, "max_answer_bytes": 3_000_000, "max_attend_numbers": 100_000}


def files() -> st.SearchStrategy[bytes]:
    """Files of tensors, some of which are requests."""
    names = st.sampled_from(["q", "k", "v", "x", "mask", "bias", "scale", "input", "input.0", "input.0.embeddings"])
    arrays = st.sampled_from([(2, 3), (3,), (2, 2, 2), (), (1, 35)]).map(lambda shape: np.ones(shape, np.float32))
    rest = st.sampled_from([{}, {"mask": "causal"}, {"input": "the cat"}, {"include": ["q"]}, {"layers": [0]}]).map(json.dumps)
    whole = st.builds(safetensors.numpy.save, st.dictionaries(names, arrays, max_size=4), st.fixed_dictionaries({"request": rest}))
    return whole | st.binary(max_size=40)


TEXT = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["the cat"]}
schemathesis.openapi.media_type("application/x-safetensors", files())
schemathesis.openapi.media_type(
    "application/octet-stream", st.just(json.dumps({"inputs": [TEXT]}).encode()) | st.binary(max_size=40)
)


@pytest.fixture(scope="module")
def address(model: kqv.Model) -> Iterator[str]:
    """Of a server that asks for keys."""
    with listening(make_app(model, api_keys=f"test:{KEY}", embed_secret=KEY, **SIZES)) as url:
        yield url


@pytest.mark.filterwarnings(  # Schemathesis does, or a thread of the server's at the wrong moment
    "ignore:Do not use the `random` module inside strategies:hypothesis.errors.HypothesisDeprecationWarning"
)
def test_answers_are_as_the_document_says(address: str) -> None:
    document = schemathesis.openapi.from_url(f"{address}/openapi.json")
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) > 15
    with requests.Session() as session:
        cases = sum(check(operation, session) for operation in operations)
    print(f"{cases} cases of {len(operations)} operations")


def check(operation: schemathesis.APIOperation[Any, Any, Any, Any], session: requests.Session) -> int:
    """Requests that the document allows, and such as it doesn't, get an answer that it knows; returns how many there were."""
    cases = 0

    @settings(max_examples=CASES, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy() | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def answered(case: schemathesis.Case) -> None:
        nonlocal cases
        cases += 1
        response = case.call(session=session, headers={"Authorization": f"Bearer {KEY}"})
        # A request that the document allows may ask for what the model doesn't have, or be too impatient.
        excluded = [positive_data_acceptance] + [not_a_server_error] * (response.status_code == 504)
        case.validate_response(response, excluded_checks=excluded)

    answered()
    return cases
