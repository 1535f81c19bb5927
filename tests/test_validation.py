"""Reading JSON files: what is said about each way of breaking a schema."""

import json
from dataclasses import fields
from typing import get_args

import pytest

from interpbench_hub.checkpoint import Provenance
from interpbench_hub.constants import SCHEMA_VERSION
from interpbench_hub.errors import CheckpointError
from interpbench_hub.transformer import TransformerConfig
from interpbench_hub.validation import SchemaName, json_path, load_schema, read_json, validate

NAMES = get_args(SchemaName)


def parts(schema):
    """Every subschema of a schema, itself included."""
    yield schema
    for value in schema.values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                yield from parts(item)


@pytest.mark.parametrize("name", NAMES)
def test_every_object_of_a_schema_is_closed(name):
    schema = load_schema(name)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for part in parts(schema):
        if part.get("type") == "object":
            assert "additionalProperties" in part
            assert part["additionalProperties"] is False or "propertyNames" in part


@pytest.mark.parametrize("name", NAMES)
def test_every_property_of_a_schema_is_described(name):
    for part in parts(load_schema(name)):
        if part.get("type") == "object":
            assert all("description" in value for value in part.get("properties", {}).values())


def test_the_schemas_list_the_fields_of_the_dataclasses():
    properties = load_schema("config")["properties"]
    assert list(properties["transformer"]["properties"]) == [field.name for field in fields(TransformerConfig)]
    assert list(properties["provenance"]["properties"]) == [field.name for field in fields(Provenance)]


@pytest.mark.parametrize("name", NAMES)
def test_the_schemas_have_the_version_of_the_package(name):
    assert load_schema(name)["properties"]["schema_version"]["const"] == SCHEMA_VERSION


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, r"file: at the top level: unknown key 'colour'; known keys: schema_version, case"),
        ({"granularty": "edge"}, "unknown key 'granularty'; did you mean 'granularity'"),
        ({"case": 3}, r"at case: 3 is not of type.*\(this is: Id of the case"),
        ({"n_layers": 0}, "at n_layers: 0 is less than the minimum of 1"),
        ({"edges": [{"source": "embed"}]}, r"at edges\[0\]: missing keys 'target', 'slot', 'kind', 'effect'"),
        ({"nodes": [{"name": "x", "variables": [], "meaning": ""}]}, r'at nodes\[0\].name: "x" does not match'),
        ({"nodes": ["x" * 1000]}, r"at nodes\[0\]: .{200,260};"),
        ({"n_layers": 0, "n_heads": 0}, r"at n_layers.*\(1 more errors\)"),
        ({"schema_version": 2}, "schema_version is 2; this version of interpbench-hub reads 1; update interpbench-hub"),
        ({"schema_version": 0}, "schema_version is 0; .* reads 1; save it again"),
        ({"schema_version": True}, "schema_version is True"),
        ({"schema_version": "1"}, "schema_version is '1'"),
    ],
)
def test_a_broken_rule_is_named_with_its_place(change, message):
    data = {"schema_version": 1, "case": None, "granularity": "edge", "n_layers": 1, "n_heads": 1}
    with pytest.raises(CheckpointError, match=message):
        validate(data | {"nodes": [], "edges": []} | change, "circuit", file="file")


@pytest.mark.parametrize("data", [None, [], "text", 3, True])
def test_what_is_no_object_is_refused(data):
    with pytest.raises(CheckpointError, match=r"file: found .*one JSON object"):
        validate(data, "circuit", file="file")


def test_a_missing_version_is_a_missing_key():
    with pytest.raises(CheckpointError, match="missing key 'schema_version'"):
        validate({"package_version": "1", "models": {}}, "manifest", file="file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b'{"schema_version": 1', "the file may be cut off"),
        (b'{"schema_version": NaN}', "NaN is no JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b"\x80\x04}", "not JSON"),
    ],
)
def test_what_is_no_json_is_refused(tmp_path, content, message):
    (tmp_path / "circuit.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_json(tmp_path / "circuit.json", "circuit")


def test_a_missing_file_and_a_missing_folder_are_told_apart(tmp_path):
    (tmp_path / "other.txt").touch()
    with pytest.raises(CheckpointError, match=r"circuit\.json: the file is missing; the folder holds other\.txt"):
        read_json(tmp_path / "circuit.json", "circuit")
    with pytest.raises(CheckpointError, match="nowhere: no such folder"):
        read_json(tmp_path / "nowhere" / "circuit.json", "circuit")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_json(tmp_path, "circuit")


def test_data_comes_back_as_it_is(tmp_path):
    data = {"schema_version": 1, "package_version": "1", "models": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(data))
    assert read_json(tmp_path / "manifest.json", "manifest") == data


def test_places_read_like_code():
    assert json_path(["a", 0, "b", 2]) == "a[0].b[2]"
    assert json_path([]) == "the top level"
