"""The figures of /metrics, as the tests read them."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

Series = dict[str, float]


def series(text: str) -> Series:
    """Every sample by its name and labels, as the text has them."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


async def read_metrics(client: httpx.AsyncClient) -> Series:
    response = await client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return series(response.text)
