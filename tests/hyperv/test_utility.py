"""JSON and Select-Object as Windows PowerShell 5.1 has them."""

import json
import uuid
from collections.abc import Mapping

import pytest

from hyperv.powershell import run_script
from hyperv.utility import LONGEST_JSON, to_json
from hyperv.values import (
    EnumValue,
    Hashtable,
    HostObject,
    PowerShellError,
    PSObject,
    Session,
    World,
)

STRICT = "Set-StrictMode -Version 3.0\n$ErrorActionPreference = 'Stop'\n"
UTILITY = "Microsoft.PowerShell.Utility\\"
GUID = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"


class Machine(HostObject):
    """An object of the host."""

    def properties(self) -> Mapping[str, object]:
        return {"Name": "one", "State": EnumValue("Off", 3)}


def run(text: str, session: Session | None = None) -> list[object]:
    return run_script(STRICT + text, {}, session or Session(World(), globals={"m": Machine()}))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (7, "7"),
        (2.5, "2.5"),
        (EnumValue("Off", 3), "3"),
        (uuid.UUID(GUID), f'"{GUID}"'),
        ("it's <a & b>", r'"it\u0027s \u003ca \u0026 b\u003e"'),
        ('"\\\b\f\n\r\t\x01', r'"\"\\\b\f\n\r\t\u0001"'),
        ("\u00e4\u2028", '"\u00e4\\u2028"'),
        ([], "[]"),
        ([1], "[1]"),
        (bytearray(b"\x01\xff"), "[1,255]"),
        (PSObject([("B", 1), ("a", [None])]), '{"B":1,"a":[null]}'),
        (Hashtable([("A", PSObject())]), '{"A":{}}'),
    ],
)
def test_json_is_written_as_windows_powershell_writes_it(value: object, text: str) -> None:
    assert to_json(value, 6) == text


def test_what_is_deeper_than_the_depth_becomes_its_text() -> None:
    deep = [PSObject([("A", [PSObject([("B", 1), ("C", "x")])])])]
    assert to_json(deep, 3) == '[{"A":[{"B":1,"C":"x"}]}]'
    assert to_json(deep, 2) == '[{"A":["@{B=1; C=x}"]}]'
    assert to_json(deep, 1) == '[{"A":"@{B=1; C=x}"}]'


def test_an_array_stays_one_by_inputobject() -> None:
    convert = f"{UTILITY}ConvertTo-Json -Compress -InputObject"
    assert run(f"$a = @()\n{convert} @($a)") == ["[]"]
    assert run(f"$a = 1\n{convert} @($a)") == ["[1]"]
    assert run(f"$a = 1\n{convert} $a") == ["1"]
    assert run(f"$a = $null\n{convert} $a") == []
    assert run(f"$a = $null\n{convert} @($a)") == ["[null]"]


def test_the_depth_is_two_where_none_is_given() -> None:
    text = (
        "$a = @{ A = @{ B = @{ C = @{ D = 1 } } } }\n"
        f"{UTILITY}ConvertTo-Json -Compress -InputObject $a"
    )
    assert json.loads(str(run(text)[0])) == {"A": {"B": {"C": "System.Collections.Hashtable"}}}


@pytest.mark.parametrize(
    "text",
    [
        f"$m = $global:M\n{UTILITY}ConvertTo-Json -Compress -InputObject $m",
        "$n = foreach ($x in @()) { $x }\n$a = @{ N = $n }\n"
        f"{UTILITY}ConvertTo-Json -Compress -InputObject $a",
    ],
)
def test_objects_of_the_host_and_no_output_are_not_converted(text: str) -> None:
    with pytest.raises(PowerShellError) as caught:
        run(text)
    assert caught.value.error_id == "NotModelled"


def test_json_becomes_objects() -> None:
    session = Session(World())
    text = f"$o = {UTILITY}ConvertFrom-Json -InputObject $global:J\n$o.b.C\n$o.list\n$o.t"
    session.globals["j"] = '{"B": {"c": "x\\u00e4"}, "List": [1, 2.5, null], "T": true}'
    assert run(text, session) == ["x\u00e4", 1, 2.5, None, True]


@pytest.mark.parametrize(
    "document", ["{", '{"a": 1, "A": 2}', f'"{"x" * LONGEST_JSON}"'], ids=["cut", "case", "long"]
)
def test_bad_json_is_an_error(document: str) -> None:
    session = Session(World(), globals={"j": document})
    with pytest.raises(PowerShellError) as caught:
        run(f"$o = {UTILITY}ConvertFrom-Json -InputObject $global:J", session)
    assert caught.value.error_id.startswith("System.ArgumentException")


def test_select_object_gives_null_for_what_is_not_there() -> None:
    text = (
        "$m = $global:M\n"
        f"$s = {UTILITY}Select-Object -InputObject $m -Property @('name', 'Missing'\n 'State')\n"
        "$s.Name\n$s.Missing\n"
        '"$($s.State)"'
    )
    assert run(text) == ["one", None, "Off"]
