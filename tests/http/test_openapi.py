"""/openapi.json and /docs: all calls are there, as they are declared, and the page needs no network."""

import re

import msgspec
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from whisperd.http import CALLS
from whisperd.routes.call import Call
from whisperd.routes.openapi import document
from whisperd.routes.submission import NAMES_AUDIO

DECLARED = [call for call in CALLS if isinstance(call, Call)]
DOCUMENT = msgspec.json.decode(msgspec.json.encode(document(DECLARED)))
OPERATIONS = [op for operations in DOCUMENT["paths"].values() for op in operations.values()]


def test_the_document_is_served_without_a_key(with_idle_server):
    async def body(server):
        answer = await server.get("/openapi.json")

        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == DOCUMENT

    with_idle_server(body)


def test_every_call_is_an_operation_of_its_own_name():
    names = [operation["operationId"] for operation in OPERATIONS]

    assert len(names) == len(set(names)) == len(DECLARED)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation["operationId"])
def test_every_operation_says_what_it_does_and_how_it_ends(operation):
    assert operation["summary"].endswith(".") or operation["description"]
    assert any(status.startswith("2") for status in operation["responses"])
    assert all(response["description"] for response in operation["responses"].values())


def test_the_document_is_openapi():
    validate(DOCUMENT)


def test_every_reference_leads_to_a_schema():
    named = re.findall(r"'#/components/schemas/([^']+)'", str(DOCUMENT))

    assert set(named) <= DOCUMENT["components"]["schemas"].keys()


def test_a_query_is_described_by_what_checks_it():
    limit = next(p for p in DOCUMENT["paths"]["/tasks"]["get"]["parameters"] if p["name"] == "limit")

    assert limit["schema"] == {"type": "integer", "minimum": 1, "default": 50}


def test_a_task_is_submitted_as_a_form_or_as_json():
    content = DOCUMENT["paths"]["/tasks/transcription"]["post"]["requestBody"]["content"]
    form, json = content["multipart/form-data"]["schema"], content["application/json"]["schema"]

    assert form["properties"].keys() - json["properties"].keys() == {"file"}
    assert json["properties"].keys() - form["properties"].keys() == {"audio_path"}
    assert [way["required"] for way in json["anyOf"]] == [[name] for name in NAMES_AUDIO]
    bounds = {"type": "integer", "minimum": -100, "maximum": 100}
    assert bounds.items() <= form["properties"]["priority"].items()
    assert bounds.items() <= json["properties"]["priority"]["anyOf"][0].items()


@pytest.mark.parametrize("path", ["/tasks/transcription", "/api/v1/transcribe"])
@pytest.mark.parametrize(
    ("form", "is_right"),
    [
        ({"file": "RIFF"}, True),
        ({"audio_url": "https://example.org/a.wav"}, True),
        ({"file": "RIFF", "audio_url": "https://example.org/a.wav"}, False),
        ({"model": "tiny.en"}, False),
        ({"file": "RIFF", "audio_path": "/a.wav"}, False),
    ],
)
def test_a_form_has_the_file_or_its_url(path, form, is_right):
    content = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]
    schema = content["multipart/form-data"]["schema"]

    assert Draft202012Validator(schema).is_valid(form) is is_right


def test_json_names_the_audio_just_once():
    json = DOCUMENT["paths"]["/tasks/transcription"]["post"]["requestBody"]["content"]["application/json"]
    by_path, by_url = (way["properties"] for way in json["schema"]["anyOf"])

    assert by_path["audio_path"]["type"] == by_url["audio_url"]["type"] == "string"
    assert by_path["audio_url"] == by_url["audio_path"] == {"type": "null"}


def test_every_submit_option_says_what_it_means_and_a_form_has_no_null():
    content = DOCUMENT["paths"]["/tasks/transcription"]["post"]["requestBody"]["content"]
    options = content["multipart/form-data"]["schema"]["properties"]

    assert all(option["description"] for option in options.values())
    assert "null" not in {option.get("type") for option in options.values()}
    assert {name for name, option in options.items() if "anyOf" in option} == {"risk"}  # true, or some packs


def test_no_pattern_is_one_of_python_alone():
    assert r"\Z" not in str(DOCUMENT)


def test_the_page_and_its_parts_come_from_here_alone(with_idle_server):
    async def body(server):
        page = await server.get("/docs")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "'self'" in page.headers["content-security-policy"]
        for part in re.findall(r'(?:src|href)="(docs/[^"]+)"', page.text):
            assert (await server.get(f"/{part}")).status_code == 200
        assert not re.search(r'(?:src|href)="(?:https?:)?//', page.text)

    with_idle_server(body)


@pytest.mark.parametrize("name", ["nosuch.js", "README.md", "..%2f..%2fpy.typed", "index.html%00"])
def test_the_page_has_no_other_parts(with_idle_server, name):
    async def body(server):
        assert (await server.get(f"/docs/{name}")).status_code == 404

    with_idle_server(body)
