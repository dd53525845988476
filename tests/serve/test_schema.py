"""Schemathesis finds nothing: whatever the OpenAPI document allows or forbids is answered so."""

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from tests.checking import NIGHTLY

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
# 400 also for what a schema cannot express: prompt and answer together, texts of white space.
FINE = (200, 400, 404)
EXAMPLES = 60 if NIGHTLY else 5  # of an operation, in each mode
settled = settings(
    max_examples=EXAMPLES,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def document(server):
    status, _, content = server.ask("GET", "/openapi.json")
    assert status == 200
    return json.loads(content)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_nothing_is_found(document, server, mode):
    api = schemathesis.openapi.from_dict(document)
    api.config.update(base_url=f"http://127.0.0.1:{server.port}", request_timeout=120)
    statuses = []

    def check(case):
        response = case.call_and_validate(checks=CHECKS)
        assert response.status_code in FINE, response.text
        statuses.append(response.status_code)

    operations = [one.ok() for one in api.get_all_operations()]
    assert len(operations) == 7 + 10
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and operation.method == "get":
            continue  # without a parameter, nothing can be wrong
        given(case=operation.as_strategy(generation_mode=mode))(settled(lambda case: check(case)))()
    if mode is GenerationMode.POSITIVE:  # a good part of the examples reaches the models
        assert statuses.count(200) > len(statuses) / 6


def test_the_document_lists_models_and_refuses_what_it_does_not_know(document):
    schemas = document["components"]["schemas"]
    assert schemas["CompletionRequest"]["properties"]["model"]["enum"] == ["talker", "plain"]
    assert schemas["EmbeddingRequest"]["properties"]["model"]["enum"] == ["encoder"]
    bodies = [name for name in schemas if name.endswith("Request")]
    assert len(bodies) == 3 + 10
    for name in bodies:
        assert schemas[name]["additionalProperties"] is False, name
    assert set(document["paths"]) >= {"/v1/models", "/v1/tasks/classify", "/health", "/metrics"}
