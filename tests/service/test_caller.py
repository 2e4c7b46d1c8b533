"""Who stops waiting leaves nothing behind."""

import gc
import logging

import pytest
from serving import busy_device, make_app, serving

import kqv

pytestmark = pytest.mark.anyio


async def test_deadline_that_passes_is_no_error_in_the_log(model: kqv.Model, caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(model)
    async with serving(app) as client:
        async with busy_device(app.state.service.batcher):
            response = await client.post("/v1/analyze", json={"input": "the cat"}, headers={"x-request-timeout-ms": "5"})
            assert response.status_code == 504
        assert (await client.post("/v1/analyze", json={"input": "the cat"})).status_code == 200
        gc.collect()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
