"""The interpreter's errors are PowerShell's, and what it does not know it refuses."""

import pytest

from hyperv.parsing import parse_script
from hyperv.powershell import run_script
from hyperv.small_world import run, world
from hyperv.syntax import OutsideSubsetError
from hyperv.values import PowerShellError, Session


def error_of(text: str) -> PowerShellError:
    with pytest.raises(PowerShellError) as caught:
        run(text)
    return caught.value


@pytest.mark.parametrize(
    ("text", "error_id"),
    [
        ("(Tests\\Get-Machine).Nmae", "PropertyNotFoundStrict"),
        ("$n = $null\n$n.Name", "PropertyNotFoundStrict"),
        ("$n = @{}\n$n.Name", "PropertyNotFoundStrict"),
        ("$n = 5\n$n.Count", "PropertyNotFoundStrict"),
        ("$o = [pscustomobject]@{ A = 1 }\n$o.B = 2", "PropertyNotFoundStrict"),
        ("$m = Tests\\Get-Machine\n$m.Name = 'x'", "PropertyAssignmentException"),
        ("$never", "VariableIsUndefined"),
        ("$n = $null\n$n.Run()", "InvokeMethodOnNull"),
        ("(Tests\\Get-Machine).Run()", "MethodNotFound"),
        ("'text'.Substring(1)", "MethodNotFound"),
        ("$n = $null\n$n[0]", "NullArray"),
        ("@(1)[1]", "System.IndexOutOfRangeException"),
        ("[No.Such]::Thing", "TypeNotFound"),
        ("[Tests.Maker]::Thing", "PropertyNotFoundStrict"),
        ("[Tests.Maker]::Thing()", "MethodNotFound"),
        ("[Tests.Access] 'Append'", "CannotConvertArgumentNoMessage"),
        ("[int] 'x'", "InvalidCastParseTargetInvocation"),
        ("[uint16] 70000", "InvalidCastParseTargetInvocation"),
        ("Tests\\Get-Machines", "CommandNotFoundException"),
        ("Tests\\Test-Echo -Nmae 'x'", "NamedParameterNotFound,Tests\\Test-Echo"),
        ("Tests\\Test-Echo 'x'", "PositionalParameterNotFound,Tests\\Test-Echo"),
        ("Tests\\Test-Echo -Force $true", "PositionalParameterNotFound,Tests\\Test-Echo"),
        ("Tests\\Test-Echo -Name", "MissingArgument,Tests\\Test-Echo"),
        ("Tests\\Test-Echo -Name -Force", "MissingArgument,Tests\\Test-Echo"),
        ("Tests\\Test-Echo -Name 'x' -name 'y'", "ParameterAlreadyBound,Tests\\Test-Echo"),
        ("Tests\\Test-Echo -Number 'x'", "CannotConvertArgumentNoMessage,Tests\\Test-Echo"),
        ("Tests\\Test-Echo -Machine 'x'", "CannotConvertArgumentNoMessage,Tests\\Test-Echo"),
        ("Tests\\Test-Echo -State 'On'", "CannotConvertArgumentNoMessage,Tests\\Test-Echo"),
        ("Tests\\Test-Echo -Flag 'x'", "ParameterArgumentTransformationError,Tests\\Test-Echo"),
        ("Tests\\Test-Must", "MissingMandatoryParameter,Tests\\Test-Must"),
        (
            "Tests\\Test-Must -Name $null",
            "ParameterArgumentValidationErrorNullNotAllowed,Tests\\Test-Must",
        ),
        (
            "Tests\\Test-Must -Name ''",
            "ParameterArgumentValidationErrorEmptyStringNotAllowed,Tests\\Test-Must",
        ),
    ],
)
def test_a_mistake_is_the_error_that_powershell_makes_of_it(text: str, error_id: str) -> None:
    assert error_of(text).error_id == error_id


@pytest.mark.parametrize(
    "text",
    [
        "Get-Machine",
        "Tests\\Get-Machine | Tests\\Test-Echo",
        "& $x",
        "try { 1 } finally { 2 }",
        "while ($true) { 1 }",
        "if ($a) { 1 } else { 2 }",
        "if ('a') { 1 }",
        "if ($a -eq 'b') { 1 }",
        "if ($a -ne $b) { 1 }",
        "if ((Tests\\Get-Machine)) { 1 }",
        "function F { 1 }",
        "{ 1 }",
        "$x = if ($a) { 1 }",
        "$x += 1",
        "$x = $y = 1",
        "[string] $x = 1",
        "$script:x = 1",
        "$env:X = 'y'",
        "$true = 1",
        "$_",
        "1 + 2",
        "-not $x",
        "$x -and $y",
        "$x -like $y",
        "1..3",
        "1MB",
        '"a $x"',
        '"$x$y"',
        '"a`n"',
        "@'\ntext\n'@",
        "$x.$y",
        "$x.'a b'",
        "$x::Y",
        "Tests\\Test-Echo -Name bare",
        "Tests\\Test-Echo -Name [Tests.Access]::Read",
        "Tests\\Test-Echo -Name 'x' > file",
        "[pscustomobject] $x",
        "Set-StrictMode -Version 2.0",
        "$x = @(1)\n$x[0] = 2",
        "return 1",
        "exit",
        "param([string] $Request)",
    ],
)
def test_what_is_not_in_the_subset_is_refused(text: str) -> None:
    with pytest.raises(OutsideSubsetError):
        run("$a = 1\n$b = 1\n$x = 1\n$y = 1\n" + text)


def test_a_refusal_names_the_line_and_the_construct() -> None:
    with pytest.raises(OutsideSubsetError, match=r"line 2: outside the subset: try_statement: try"):
        parse_script("$x = 1\ntry { 2 } catch { 3 }")


def test_what_is_not_in_the_subset_is_refused_also_where_nothing_runs_it() -> None:
    with pytest.raises(OutsideSubsetError, match="line 4"):
        run("foreach ($x in @()) {\n    $y | Tests\\Get-Machine\n}")


def test_a_command_needs_errors_to_stop_the_script() -> None:
    with pytest.raises(OutsideSubsetError, match="ErrorActionPreference"):
        run_script("Tests\\Get-Machine", {}, Session(world()))


def test_without_strict_mode_a_missing_property_is_null() -> None:
    text = "$ErrorActionPreference = 'Stop'\n(Tests\\Get-Machine).Nmae"
    assert run_script(text, {}, Session(world())) == [None]
