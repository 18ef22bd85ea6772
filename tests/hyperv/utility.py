"""Microsoft.PowerShell.Utility as Windows PowerShell 5.1 has it: JSON, and Select-Object."""

import json
import re
import uuid
from collections.abc import Callable, Iterable, Mapping

from hyperv.values import (
    ArrayOf,
    Command,
    EnumValue,
    HostObject,
    PowerShellError,
    PSObject,
    Session,
    text_of,
)

DEFAULT_DEPTH = 2
# JavaScriptSerializer's default; whether ConvertFrom-Json raises it differs between versions.
LONGEST_JSON = 2_097_152  # characters
_ESCAPED = re.compile("[\"\\\\\x00-\x1f'<>&\x85\u2028\u2029]")
_SHORT_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
}


def utility_commands() -> Mapping[str, Command]:
    """The commands of this module by lower-cased name."""
    commands = (
        Command(
            "Microsoft.PowerShell.Utility\\ConvertFrom-Json",
            {"InputObject": str},
            _convert_from_json,
            frozenset({"InputObject"}),
        ),
        Command(
            "Microsoft.PowerShell.Utility\\ConvertTo-Json",
            # -Compress is optional in PowerShell; text over many lines is not modelled.
            {"InputObject": object, "Depth": int, "Compress": "switch"},
            _convert_to_json,
            frozenset({"Compress"}),
        ),
        Command(
            "Microsoft.PowerShell.Utility\\Select-Object",
            {"InputObject": object, "Property": ArrayOf(str)},
            _select_object,
            frozenset({"Property"}),
        ),
    )
    return {command.name.lower(): command for command in commands}


def _convert_from_json(session: Session, given: dict[str, object]) -> Iterable[object]:
    yield from_json(text_of(given["InputObject"]))


def _convert_to_json(session: Session, given: dict[str, object]) -> Iterable[object]:
    depth = given.get("Depth", DEFAULT_DEPTH)
    assert isinstance(depth, int)
    if given.get("InputObject") is not None:  # nothing comes of $null
        yield to_json(given["InputObject"], depth)


def _select_object(session: Session, given: dict[str, object]) -> Iterable[object]:
    """The named properties in an object; what the input lacks is $null, also in strict mode."""
    source = given.get("InputObject")
    names = given["Property"]
    assert isinstance(names, list)
    if not isinstance(source, PSObject | HostObject) or any("*" in name for name in names):
        raise PowerShellError(
            "Select-Object is modelled for one object and plain names of its properties",
            "NotModelled",
        )
    yield PSObject((name, source.read(name) if name in source else None) for name in names)


def from_json(text: str) -> object:
    """ConvertFrom-Json: objects become PSObjects; two names that differ in case are refused."""
    if len(text) > LONGEST_JSON:
        raise _bad_json("The length of the string exceeds the value set on maxJsonLength.")
    try:
        return json.loads(text, object_pairs_hook=_object)
    except ValueError as problem:
        raise _bad_json(f"Invalid JSON primitive: {problem}") from problem


def _object(pairs: list[tuple[str, object]]) -> PSObject:
    if len({name.lower() for name, _ in pairs}) != len({name for name, _ in pairs}):
        raise _bad_json("The dictionary contains keys that differ only in their case.")
    return PSObject(pairs)


def _bad_json(message: str) -> PowerShellError:
    name = "Microsoft.PowerShell.Commands.ConvertFromJsonCommand"
    return PowerShellError(message, f"System.ArgumentException,{name}", "NotSpecified")


def to_json(value: object, depth: int, level: int = 0) -> str:
    """ConvertTo-Json -Compress: what lies deeper than `depth` levels becomes its text."""
    plain = _plain_json(value)
    if plain is not None:
        return plain
    if level > depth:
        return _quote(text_of(value))
    if isinstance(value, list | bytearray):
        return f"[{','.join(to_json(item, depth, level + 1) for item in value)}]"
    if isinstance(value, PSObject):
        members = (
            f"{_quote(name)}:{to_json(inner, depth, level + 1)}"
            for name, inner in value.properties().items()
        )
        return f"{{{','.join(members)}}}"
    raise PowerShellError(
        f"ConvertTo-Json of {type(value).__name__} is not modelled: name the properties wanted",
        "NotModelled",
    )


def _plain_json(value: object) -> str | None:
    writers: dict[type, Callable[..., str]] = {
        type(None): lambda _: "null",
        bool: lambda given: "true" if given else "false",
        int: str,
        float: lambda given: repr(given),
        str: _quote,
        uuid.UUID: lambda given: _quote(str(given)),
        EnumValue: lambda given: str(given.number),
    }
    writer = writers.get(type(value))
    return None if writer is None else writer(value)


def _quote(text: str) -> str:
    return f'"{_ESCAPED.sub(_escape, text)}"'


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    return _SHORT_ESCAPES.get(character, f"\\u{ord(character):04x}")
