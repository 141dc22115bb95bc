"""/openapi.json describes the server: schemathesis sends what it allows, and what it does not."""

import json

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from rdlite.serve.description.openapi import OPERATIONS

PATIENCE = 30  # seconds for an answer
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
    checks.negative_data_rejection,
    checks.missing_required_header,
    checks.unsupported_method,
]


@pytest.fixture(scope="module")
def described(start):
    """Short answers of a shallow model, so that hundreds of requests take seconds."""
    options = ("--context", 64, "--max-tokens", 4, "--steps", 2, "--threads", 1, "--queue", 64)
    with start(*options) as server:
        yield server


@pytest.fixture(scope="module")
def api(described):
    return schemathesis.openapi.from_url(described.url + "/openapi.json")


def bounded(body):
    """Ask for few core steps and choices, where that is asked for at all."""
    if isinstance(body, dict):
        depth = body.get("depth")
        if isinstance(depth, dict) and isinstance(depth.get("max_steps"), int):
            depth["max_steps"] = min(depth["max_steps"], 8)
        if isinstance(body.get("n"), int) and body["n"] <= 8:
            body["n"] = min(body["n"], 2)
    return body


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_answers_are_what_the_description_says(api, method, path):
    operation = api[path][method]
    cases = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    if "requestBody" in operation.definition.raw:
        cases |= operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

    @hypothesis.given(case=cases)
    @hypothesis.settings(
        max_examples=60,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    def ask(case):
        case.body = bounded(case.body)
        case.call_and_validate(checks=CHECKS, timeout=PATIENCE)

    ask()


def test_every_path_is_described_and_the_description_needs_the_key(start, api):
    paths = {(method, path) for path in api for method in api[path]}
    assert paths == set(OPERATIONS)
    with start(RDLITE_API_KEY="correct horse") as server:
        assert server.get("/openapi.json")[0] == 401
        headers = {"Authorization": "Bearer correct horse"}
        said = json.loads(server.get("/openapi.json", **headers)[2])
    assert said["security"] == [{"key": []}]
