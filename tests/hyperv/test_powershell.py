"""The interpreter keeps to PowerShell's rules."""

import threading
import uuid
from collections.abc import Iterable

import pytest

from hyperv.powershell import run_script
from hyperv.small_world import GUID, MACHINE, run, world
from hyperv.values import (
    NO_OUTPUT,
    Command,
    EnumValue,
    PowerShellError,
    PSObject,
    Session,
    StoppedError,
)


def value_of(expression: str) -> object:
    """What `$x = expression` gives $x."""
    session = Session(world())
    run(f"$global:X = {expression}", session)
    return session.globals["x"]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("'it''s $x'", "it's $x"),
        ('"plain ""text"""', 'plain "text"'),
        ("17", 17),
        ("-3", -3),
        ("0x1F", 31),
        ("2.5", 2.5),
        ("$NULL", None),
        ("$True", True),
        ("1, 'b'", [1, "b"]),
        ("@()", []),
        ("@(1)", [1]),
        ("@(1, 2; 3)", [1, 2, 3]),
        ("@(@(1, 2))", [1, 2]),
        ("@($null)", [None]),
        ("($true)", True),
        ("$env:programdata", "C:\\ProgramData"),
        ("$env:NoSuch", None),
        ("[string] 5", "5"),
        ("[int] '12'", 12),
        ("[int] 2.5", 2),
        ("[bool] @()", False),
        ("[bool] 'False'", True),
        ("[uint16] 800", 800),
        (f"[guid] '{GUID}'", uuid.UUID(GUID)),
        ("[byte[]] @(1, 2)", bytearray(b"\x01\x02")),
        ("[string[]] @(1, 2)", ["1", "2"]),
        ("[byte[]]::new(3)", bytearray(3)),
        ("[Tests.Access]::Write", EnumValue("Write", 2)),
        ("[tests.access] 'read, write'", EnumValue("Read, Write", 3)),
        ("[Tests.Access]::Read -bor [Tests.Access]::Write", EnumValue("Read, Write", 3)),
        ("[Tests.Maker]::Answer", 42),
        ("[Tests.Maker]::Join('a', 1)", "a+1"),
        ("[Tests.Maker]::Join([System.Action], 'b')", "System.Action+b"),
        ("[Tests.Maker]::new('three').Name", "three"),
        ("[Tests.Maker]::new('x').Twice(4)", 8),
        ("(Tests\\Get-Machine).Name", "one"),
        ("'abc'.Length", 3),
        ("@(1, 2).Count", 2),
        ("(1, 2)[-1]", 2),
        ("@{ A = 1 }['a']", 1),
        ("@{ A = 1 }.A", 1),
    ],
)
def test_an_expression_has_its_value(expression: str, value: object) -> None:
    assert value_of(expression) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("(Tests\\Get-Machine).State", "Off"),
        ("(Tests\\Get-Machine).Id", GUID),
        ("(Tests\\Get-Machine).Drives", "a b"),
        ("(Tests\\Get-Machine)", "Tests.Machine"),
        ("$null", ""),
        ("$true", "True"),
        ("1.0", "1"),
        ("[pscustomobject]@{ A = 1; B = $null }", "@{A=1; B=}"),
        ("@{ A = 1 }", "System.Collections.Hashtable"),
    ],
)
def test_a_value_in_a_string_is_its_text(value: str, text: str) -> None:
    session = Session(world())
    run(f'$v = {value}\n$global:X = "$v"\n$global:Y = "$($v)"', session)
    assert (session.globals["x"], session.globals["y"]) == (text, text)


def test_names_are_the_same_in_any_case() -> None:
    text = "$A = tests\\GET-machine -COUNT 1\n$null = $a.RENAME('one')\n$a.nAME"
    assert run(text) == ["one"]


def test_what_statements_give_is_the_output_unrolled() -> None:
    text = "1\n'b'\n@(2, 3)\n@()\n$null\n$x = 4\n[void] 5\n(Tests\\Get-Machine).Rename('one')\n"
    assert run(text) == [1, "b", 2, 3, None]


@pytest.mark.parametrize(("count", "value"), [(0, NO_OUTPUT), (1, "one"), (2, ["one", "two"])])
def test_a_loop_gives_nothing_the_bare_value_or_an_array(count: int, value: object) -> None:
    loop = f"foreach ($m in Tests\\Get-Machine -Count {count}) {{ $m.Name }}"
    assert value_of(loop) == value


def test_no_output_makes_an_empty_array_where_null_makes_one_of_one() -> None:
    text = "$n = foreach ($x in @()) { $x }\n$global:A = @($n)\n$m = $null\n$global:B = @($m)"
    session = Session(world())
    run(text, session)
    assert (session.globals["a"], session.globals["b"]) == ([], [None])


@pytest.mark.parametrize(("source", "items"), [("$null", []), ("7", [7]), ("1, 2", [1, 2])])
def test_foreach_goes_through_what_there_is(source: str, items: list[object]) -> None:
    assert run(f"$s = {source}\nforeach ($x in $s) {{ $x }}") == items


def test_a_loop_variable_stays_after_the_loop() -> None:
    assert run("foreach ($x in 1, 2) { }\n$x") == [2]


@pytest.mark.parametrize(
    ("value", "holds"),
    [
        ("$null", False),
        ("$false", False),
        ("0", False),
        ("''", False),
        ("@()", False),
        ("@(0)", False),
        ("@(0, 0)", True),
        ("'False'", True),
        ("@{ A = 1 }", True),
        ("Tests\\Get-Machine", True),
    ],
)
def test_a_condition_holds_as_in_powershell(value: str, holds: bool) -> None:
    assert run(f"$c = {value}\nif ($c) {{ 'yes' }}") == (["yes"] if holds else [])


@pytest.mark.parametrize(
    ("left", "operator", "right", "holds"),
    [
        ("'abc'", "-eq", "'ABC'", True),
        (f"[guid] '{GUID}'", "-eq", f"'{GUID.upper()}'", True),
        ("(Tests\\Get-Machine).State", "-eq", "'off'", True),
        ("1", "-eq", "'1'", True),
        ("1", "-eq", "'x'", False),
        ("$null", "-eq", "''", False),
        ("$null", "-eq", "$null", True),
        ("@('a', 'b')", "-contains", "'B'", True),
        ("@()", "-contains", "'B'", False),
        ("'b'", "-contains", "'B'", True),
        ("$null", "-contains", "$null", False),
    ],
)
def test_a_comparison_holds_as_in_powershell(
    left: str, operator: str, right: str, holds: bool
) -> None:
    text = f"$l = {left}\n$r = {right}\nif ($l {operator} $r) {{ 'yes' }}"
    assert run(text) == (["yes"] if holds else [])


def test_properties_are_written_where_they_can_be() -> None:
    text = (
        "$m = Tests\\Get-Machine\n$m.Notes = 'n'\n"
        "$o = [pscustomobject]@{ A = 1 }\n$o.A = 2\n$h = @{}\n$h.B = 3\n$h['c'] = 4\n"
        "$o.A\n$h.b\n$h.C"
    )
    assert run(text) == [2, 3, 4]
    assert MACHINE.notes == "n"


def test_globals_stay_in_the_session_and_variables_do_not() -> None:
    session = Session(world())
    run("$global:Kept = 'x'\n$lost = 'y'", session)
    assert run("$global:kept", session) == ["x"]
    with pytest.raises(PowerShellError, match="has not been set") as caught:
        run("$lost", session)
    assert caught.value.error_id == "VariableIsUndefined"


def test_arguments_reach_a_command_with_their_types() -> None:
    text = (
        "$m = Tests\\Get-Machine\n"
        "Tests\\Test-Echo -name 5 -Number '7' -Flag $true -Force -Confirm:$false"
        " -Machine $m -State 'off' -Paths 'a;b $(c)' -Any @(1, $null)"
    )
    (given,) = run(text)
    assert isinstance(given, PSObject)
    assert given.properties() == {
        "Name": "5",
        "Number": 7,
        "Flag": True,
        "Force": True,
        "Confirm": False,
        "Machine": MACHINE,
        "State": EnumValue("Off", 3),
        "Paths": ["a;b $(c)"],
        "Any": [1, None],
    }


def test_null_reaches_an_optional_parameter_as_null() -> None:
    (given,) = run("Tests\\Test-Echo -Name $null -Number $null")
    assert isinstance(given, PSObject)
    assert given.properties() == {"Name": None, "Number": None}


PARAMETERS = (
    "[CmdletBinding()]\nparam(\n    [Parameter(Mandatory = $true)]\n    [string] $Request\n)\n"
)


def test_a_parameter_keeps_its_type() -> None:
    text = PARAMETERS + "$request"
    assert run_script(text, {"request": "a'b"}, Session(world())) == ["a'b"]
    assert run_script(text, {"Request": 5}, Session(world())) == ["5"]


@pytest.mark.parametrize(
    ("given", "error_id"),
    [
        ({}, "MissingMandatoryParameter"),
        ({"Request": ""}, "ParameterArgumentValidationErrorEmptyStringNotAllowed"),
        ({"Request": "x", "Other": 1}, "NamedParameterNotFound"),
    ],
)
def test_a_script_refuses_wrong_parameters(given: dict[str, object], error_id: str) -> None:
    with pytest.raises(PowerShellError) as caught:
        run_script(PARAMETERS + "$Request", given, Session(world()))
    assert caught.value.error_id.startswith(error_id)


def test_a_script_stops_when_it_is_asked_to() -> None:
    session = Session(world())
    waiting = threading.Event()

    def wait(session: Session, given: dict[str, object]) -> Iterable[object]:
        waiting.set()
        session.stopping.wait(10)
        yield 1

    session.world.add_commands(Command("Tests\\Wait-Long", {}, wait))

    def stop() -> None:
        waiting.wait(10)
        session.stopping.set()

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(StoppedError):
        run("Tests\\Wait-Long\n$global:After = 1", session)
    stopper.join()
    assert "after" not in session.globals


def test_the_end_of_a_session_lets_go_of_what_it_holds() -> None:
    ended: list[str] = []
    session = Session(world(), globals={"x": 1})
    session.at_end.append(lambda: ended.append("pipe"))
    session.end()
    session.end()
    assert ended == ["pipe"]
    assert session.globals == {}
