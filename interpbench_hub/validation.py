"""Reading JSON files and checking them against the schemas that ship in `schemas/`.

Owns the errors about them: each says which file and place breaks which rule, what was found and what to do.
"""

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from interpbench_hub.constants import SCHEMA_VERSION
from interpbench_hub.errors import CheckpointError

if TYPE_CHECKING:
    from jsonschema_rs import Draft202012Validator, ValidationError

SchemaName = Literal["config", "circuit", "certificate", "manifest", "attempts"]

SCHEMA_FOLDER = Path(__file__).parent / "schemas"

_REMEDY = "save it again with this package or fetch it again"


def json_or_text(written: str) -> Any:
    """A value that someone wrote by hand: what it says in JSON, or the text itself where it is none."""
    try:
        return json.loads(written)
    except ValueError:
        return written


def load_schema(name: SchemaName) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one of our files."""
    return json.loads((SCHEMA_FOLDER / f"{name}.schema.json").read_text(encoding="utf-8"))


def read_json(path: Path, name: SchemaName) -> dict[str, Any]:
    """The JSON object in a file, checked against the schema called `name`; raises `CheckpointError`."""
    content = read_bytes(path)
    try:
        data = json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # bad UTF-8, bad JSON, NaN, brackets nested without end
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise CheckpointError(f"{path}: not JSON ({reason}); the file may be cut off; {_REMEDY}") from error
    return validate(data, name, file=path)


def read_bytes(path: Path) -> bytes:
    """The content of one file of a checkpoint; raises `CheckpointError` if there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        if not path.parent.is_dir():
            raise CheckpointError(f"{path.parent}: no such folder; give the folder of a checkpoint") from error
        found = ", ".join(sorted(entry.name for entry in path.parent.iterdir())[:12]) or "nothing"
        raise CheckpointError(f"{path}: the file is missing; the folder holds {found}; {_REMEDY}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def validate(data: object, name: SchemaName, *, file: str | Path) -> dict[str, Any]:
    """Return `data` if it obeys the schema called `name`; else raise `CheckpointError`.

    `file` is only named in the message, next to the place in the JSON, the rule, what was found and what to do.

    >>> validate({"schema_version": 1, "package_version": "0.1.0", "models": {}}, "manifest", file="manifest.json")
    {'schema_version': 1, 'package_version': '0.1.0', 'models': {}}
    """
    if not isinstance(data, dict):
        raise CheckpointError(f"{file}: found {_type_name(data)}; the file holds one JSON object; {_REMEDY}")
    if "schema_version" in data and (data["schema_version"] is True or data["schema_version"] != SCHEMA_VERSION):
        # Before anything else: in a file of another version every other rule may differ.
        version = data["schema_version"]
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        remedy = "update interpbench-hub" if newer else _REMEDY
        raise CheckpointError(
            f"{file}: schema_version is {version!r}; this version of interpbench-hub reads {SCHEMA_VERSION}; {remedy}"
        )
    validator, schema = _validator(name)
    # One error for each object with missing keys: the sentence names them all.
    errors = list(
        {(*error.instance_path, error.schema_path[-1]): error for error in validator.iter_errors(data)}.values()
    )
    if errors:
        more = f" ({len(errors) - 1} more errors)" if len(errors) > 1 else ""
        raise CheckpointError(f"{file}: {_sentence(errors[0], schema)}{more}")
    return data


@cache
def _validator(name: SchemaName) -> "tuple[Draft202012Validator, dict[str, Any]]":
    # The Rust validator: it imports in a quarter of the time of the Python one and checks a large circuit in 1 ms.
    from jsonschema_rs import Draft202012Validator

    schema = load_schema(name)
    return Draft202012Validator(schema), schema


def _sentence(error: "ValidationError", schema: Mapping[str, Any]) -> str:
    """Place, finding, rule and remedy of one violation."""
    place = json_path(error.instance_path)
    rule = error.schema_path[-1]
    part = _part(schema, error.schema_path[:-1])
    found = error.instance
    if rule == "additionalProperties" and isinstance(found, Mapping):
        known = list(part.get("properties", {}))
        unknown = [key for key in found if key not in known]
        near = get_close_matches(unknown[0], known, n=1) if unknown else []
        hint = f"; did you mean {near[0]!r}?" if near else ""
        listing = f"known keys: {', '.join(known)}"
        return f"at {place}: unknown {_keys(unknown)}{hint}; {listing}; remove what is unknown or {_REMEDY}"
    if rule == "required" and isinstance(found, Mapping):
        missing = [key for key in part.get("required", []) if key not in found]
        return f"at {place}: missing {_keys(missing)}; required are {', '.join(part['required'])}; {_REMEDY}"
    meaning = part.get("description")
    return f"at {place}: {_short(error.message)}" + (f" (this is: {meaning})" if meaning else "") + f"; {_REMEDY}"


def _part(schema: Mapping[str, Any], path: Sequence[str | int]) -> dict[str, Any]:
    """The part of a schema at a path; empty where the validator's path does not lead to an object."""
    part: Any = schema
    for step in path:
        try:
            part = part[step]
        except (KeyError, IndexError, TypeError):
            return {}
    return part if isinstance(part, dict) else {}


def json_path(path: Sequence[str | int]) -> str:
    """A place in JSON as people write it.

    >>> json_path(["edges", 3, "kind"]), json_path([])
    ('edges[3].kind', 'the top level')
    """
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".") or "the top level"


def _keys(names: Sequence[str]) -> str:
    return ("key " if len(names) == 1 else "keys ") + ", ".join(repr(name) for name in names)


def _short(text: str, limit: int = 200) -> str:
    """The library quotes whole values, which may be long: keep both ends."""
    return text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-limit // 2 :]}"


def _type_name(data: object) -> str:
    names = {list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(data), "null" if data is None else type(data).__name__)
