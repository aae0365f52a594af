"""The OpenAPI document: what it says of every route holds, whatever is sent."""

from __future__ import annotations

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from cascade.serving.app import ROUTES
from tests.serving.running import Plain, plain_cascade, running

KEY = "right"


@pytest.fixture(scope="module")
def keyed():
    with running(plain_cascade(Plain("a", p_t=0.95), Plain("b")), keys=[KEY]) as server:
        yield server


@pytest.fixture(scope="module")
def published(keyed):
    headers = {"authorization": f"Bearer {KEY}"}
    schema = schemathesis.openapi.from_url(f"{keyed.url}/openapi.json", headers=headers)
    schema.config.update(base_url=keyed.url)
    return schema


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value)
def test_every_route_keeps_to_the_document_whatever_is_sent(published, mode):
    asked = set()
    for found in published.get_all_operations():
        operation = found.ok()

        @settings(max_examples=30, deadline=None, derandomize=True, phases=[Phase.generate], database=None,
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case):
            # Some things no schema says: that the last message is the user's, or that all has to fit in the context.
            case.call_and_validate(excluded_checks=[positive_data_acceptance])
            asked.add(case.operation.path)

        if mode == GenerationMode.POSITIVE or operation.body or operation.path_parameters:
            check()
    assert {"/v1/chat/completions", "/v1/completions"} <= asked
    # schemathesis leaves the document itself out.
    assert mode == GenerationMode.NEGATIVE or asked == {*ROUTES, "/v1/models/{name}"} - {"/openapi.json"}


def test_the_document_needs_the_key_and_names_every_route(keyed):
    assert httpx.get(f"{keyed.url}/openapi.json").status_code == 401
    found = httpx.get(f"{keyed.url}/openapi.json", headers={"authorization": f"Bearer {KEY}"}).json()
    assert found["security"] == [{"key": []}]
    assert set(found["paths"]) == {*ROUTES, "/v1/models/{name}"}


def test_a_server_without_keys_shows_its_document_to_anybody(server):
    found = httpx.get(f"{server.url}/openapi.json").json()
    assert "security" not in found
    names = ["cascade", "mini-llama-small", "mini-llama-medium", "mini-llama-large"]
    assert found["components"]["schemas"]["ChatRequest"]["properties"]["model"]["enum"] == names
