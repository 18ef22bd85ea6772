"""The scripts' text: what can be known of it without a Windows computer."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tree_sitter import Node

import bootgraft_host.hyperv
from hyperv.parsing import parse_script, parse_tree
from hyperv.syntax import Collected, CommandCall, Constant, Evaluate

PACKAGE = Path(bootgraft_host.hyperv.__file__).parent
SCRIPTS = sorted((PACKAGE / "scripts").glob("*.ps1"))
ALL_FILES = sorted((PACKAGE / "scripts").rglob("*.ps1"))
HYPER_V: dict[str, list[str]] = json.loads(
    (Path(__file__).parent.parent / "data/hyperv-cmdlets.json").read_text("utf-8")
)["cmdlets"]

# Cmdlets of Windows itself, with those of their parameters that the scripts use.
# Source: MicrosoftDocs/PowerShell-Docs, reference/5.1/MODULE/CMDLET.md.
WINDOWS = {
    "Microsoft.PowerShell.Utility\\ConvertFrom-Json": {"InputObject"},
    "Microsoft.PowerShell.Utility\\ConvertTo-Json": {"InputObject", "Depth", "Compress"},
    "Microsoft.PowerShell.Utility\\Select-Object": {"InputObject", "Property"},
    "Microsoft.PowerShell.Core\\Get-Module": {"ListAvailable", "Name"},
    "Microsoft.PowerShell.Security\\Get-Acl": {"LiteralPath"},
    "CimCmdlets\\Get-CimInstance": {"Namespace", "ClassName", "Filter"},
    "CimCmdlets\\Invoke-CimMethod": {"InputObject", "MethodName", "Arguments", "Confirm"},
}

each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
each_file = pytest.mark.parametrize("script", ALL_FILES, ids=lambda path: path.stem)


def broken_nodes(node: Node) -> Iterator[str]:
    if node.type == "ERROR" or node.is_missing:
        yield f"line {node.start_point[0] + 1}: {node.type}"
    for child in node.children:
        yield from broken_nodes(child)


def commands_of(part: object) -> Iterator[CommandCall]:
    """Every command call in a part of a parsed script."""
    if isinstance(part, CommandCall):
        yield part
    if isinstance(part, tuple):
        for item in part:
            yield from commands_of(item)
    elif dataclasses.is_dataclass(part):
        for field in dataclasses.fields(part):
            yield from commands_of(getattr(part, field.name))


def unknown_words(text: str) -> Iterator[str]:
    """Commands and parameters that no documentation lists, or that are not spelled out."""
    for call in commands_of(parse_script(text)):
        module, _, name = call.name.rpartition("\\")
        if module == "Hyper-V":
            known = set(HYPER_V.get(name, ()))
            is_known = name in HYPER_V
        else:
            known = WINDOWS.get(call.name, {"Version"})
            is_known = call.name in WINDOWS or call.name == "Set-StrictMode"
        if not is_known:
            yield f"line {call.line}: {call.name}"
            continue
        for argument in call.arguments:
            if argument.name is not None and argument.name not in known:
                yield f"line {call.line}: {call.name} -{argument.name}"


def positional_arguments(text: str) -> Iterator[str]:
    for call in commands_of(parse_script(text)):
        after_a_name = False
        for argument in call.arguments:
            if argument.name is None and not after_a_name:
                yield f"line {call.line}: {call.name}"
            after_a_name = argument.name is not None and argument.value is None


def test_there_are_scripts_to_look_at() -> None:
    assert {"describe", "change", "start", "turn-off"} <= {path.stem for path in SCRIPTS}


@each_file
def test_a_script_parses_without_error(script: Path) -> None:
    assert list(broken_nodes(parse_tree(script.read_text("utf-8")))) == []


@each_file
def test_a_script_is_ascii_with_unix_lines(script: Path) -> None:
    content = script.read_bytes()
    assert content.isascii()
    assert b"\r" not in content
    assert b"\t" not in content
    assert content.endswith(b"\n")


@each_script
def test_a_script_keeps_to_the_subset(script: Path) -> None:
    parse_script(script.read_text("utf-8"))


@each_script
def test_a_script_names_only_documented_cmdlets_and_parameters(script: Path) -> None:
    assert list(unknown_words(script.read_text("utf-8"))) == []


@each_script
def test_a_script_names_every_argument(script: Path) -> None:
    assert list(positional_arguments(script.read_text("utf-8"))) == []


@each_script
def test_a_script_begins_with_what_it_does_and_what_it_is_asked(script: Path) -> None:
    head = re.match(r"(?:# .+\n)+", script.read_text("utf-8"))
    assert head is not None
    assert "# Asked: " in head[0]


@each_script
def test_a_script_takes_one_request_and_stops_at_the_first_error(script: Path) -> None:
    text = script.read_text("utf-8")
    start = text.index("[CmdletBinding()]")
    assert text[start:].startswith(
        "[CmdletBinding()]\n"
        "param(\n"
        "    [Parameter(Mandatory = $true)]\n"
        "    [string] $Request\n"
        ")\n"
        "Set-StrictMode -Version 3.0\n"
        "$ErrorActionPreference = 'Stop'\n"
        "$ProgressPreference = 'SilentlyContinue'\n"
        "$asked = Microsoft.PowerShell.Utility\\ConvertFrom-Json -InputObject $Request\n"
    )


@each_script
def test_a_script_ends_with_one_json_array_and_writes_nothing_else(script: Path) -> None:
    *others, last = parse_script(script.read_text("utf-8")).statements
    assert isinstance(last, CommandCall)
    assert last.name == "Microsoft.PowerShell.Utility\\ConvertTo-Json"
    words = [(argument.name, argument.value) for argument in last.arguments]
    assert [name for name, _ in words] == ["InputObject", None, "Depth", None, "Compress"]
    assert isinstance(words[1][1], Collected)
    assert words[3][1] == Constant(6)
    assert not any(
        isinstance(other, Evaluate) and isinstance(other.expression, Constant) for other in others
    )


@each_script
def test_a_script_is_run_by_name_somewhere(script: Path) -> None:
    code = "".join(path.read_text("utf-8") for path in PACKAGE.glob("*.py"))
    assert script.stem in set(re.findall(r'"([a-z-]+)"', code))


def test_the_table_of_cmdlets_says_where_it_is_from() -> None:
    table = Path(__file__).parent.parent / "data/hyperv-cmdlets.json"
    assert "windows-powershell-docs" in json.loads(table.read_text("utf-8"))["source"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("Hyper-V\\Set-VMBoos -VM $vm", "line 1: Hyper-V\\Set-VMBoos"),
        ("Hyper-V\\Set-VMBios -StartOrder $o", "line 1: Hyper-V\\Set-VMBios -StartOrder"),
        ("Get-VM -Id $id", "line 1: Get-VM"),
        ("Hyper-V\\get-vm -Id $id", "line 1: Hyper-V\\get-vm"),
        ("$x = @(Utility\\ConvertTo-Json)", "line 1: Utility\\ConvertTo-Json"),
        ("if ($x) { $y = [pscustomobject]@{ A = Hyper-V\\No-One } }", "line 1: Hyper-V\\No-One"),
    ],
)
def test_a_misspelt_word_is_found_wherever_it_stands(line: str, found: str) -> None:
    assert list(unknown_words(line)) == [found]


def test_an_argument_without_its_parameter_is_found() -> None:
    assert list(positional_arguments("Hyper-V\\Get-VM -Id $id 'x'")) == ["line 1: Hyper-V\\Get-VM"]
    assert list(positional_arguments("Hyper-V\\Get-VM 'x'")) == ["line 1: Hyper-V\\Get-VM"]
    assert list(positional_arguments("Hyper-V\\Get-VM -Id 'x' -Force -Confirm:$false")) == []
