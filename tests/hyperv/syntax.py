"""The subset of PowerShell that the scripts are written in, as a tree of dataclasses.

Straight-line code: a param block, assignments, commands with named parameters, foreach, if on a
property, objects, and .NET calls.
"""

from dataclasses import dataclass
from typing import TypeAlias


class OutsideSubsetError(Exception):
    """A script uses what the interpreter does not know, by intention or by mistake."""

    def __init__(self, line: int, construct: str) -> None:
        super().__init__(f"line {line}: outside the subset: {construct}")
        self.line = line
        self.construct = construct


@dataclass(frozen=True, slots=True)
class Constant:
    """A string or a number."""

    value: object


@dataclass(frozen=True, slots=True)
class Variable:
    """`$x`, `$global:X` or `$env:X`; names are lower-cased, as PowerShell ignores case."""

    scope: str  # "", "global", "env"
    name: str


@dataclass(frozen=True, slots=True)
class TypeName:
    """`[System.IO.Path]`, as a value or before `::`."""

    name: str


@dataclass(frozen=True, slots=True)
class Member:
    """`$x.Name`, or `[Type]::Name`."""

    line: int
    target: "Expression"
    name: str


@dataclass(frozen=True, slots=True)
class MethodCall:
    """`$x.Name(...)`, or `[Type]::Name(...)`."""

    line: int
    target: "Expression"
    name: str
    arguments: "tuple[Expression, ...]"


@dataclass(frozen=True, slots=True)
class Index:
    """`$x[0]`."""

    target: "Expression"
    index: "Expression"


@dataclass(frozen=True, slots=True)
class Cast:
    """`[Type] $x`."""

    line: int
    type_name: str
    operand: "Expression"


@dataclass(frozen=True, slots=True)
class HashLiteral:
    """`@{ Name = ... }`; with [pscustomobject] before it, an object."""

    entries: "tuple[tuple[str, Statement], ...]"


@dataclass(frozen=True, slots=True)
class Collected:
    """`@(...)`: all output of its statements, always an array."""

    statements: "tuple[Statement, ...]"


@dataclass(frozen=True, slots=True)
class ItemList:
    """`1, 2`."""

    items: "tuple[Expression, ...]"


@dataclass(frozen=True, slots=True)
class AsText:
    """`"$($x.Y)"` or `"$x"`: a value turned into a string, and nothing around it."""

    value: "Statement"


@dataclass(frozen=True, slots=True)
class Parenthesised:
    """`(command ...)` or `($x)`."""

    statement: "Statement"


@dataclass(frozen=True, slots=True)
class Binary:
    """`-eq` and `-contains` in conditions, `-bor` for flags."""

    operator: str
    left: "Expression"
    right: "Expression"


Expression: TypeAlias = (
    Constant
    | Variable
    | TypeName
    | Member
    | MethodCall
    | Index
    | Cast
    | HashLiteral
    | Collected
    | ItemList
    | AsText
    | Parenthesised
    | Binary
)


@dataclass(frozen=True, slots=True)
class Argument:
    """`-Name`, `-Name:value`, or a value; which value is whose the binder decides."""

    name: str | None
    value: Expression | None


@dataclass(frozen=True, slots=True)
class CommandCall:
    """A command with what follows it."""

    line: int
    name: str
    arguments: tuple[Argument, ...]


@dataclass(frozen=True, slots=True)
class Evaluate:
    """An expression where a statement stands."""

    line: int
    expression: Expression


@dataclass(frozen=True, slots=True)
class Assign:
    """`$x = ...`, `$x.Y = ...`, `$x['y'] = ...`."""

    line: int
    target: Variable | Member | Index
    value: "Statement"


@dataclass(frozen=True, slots=True)
class ForEach:
    """`foreach ($x in ...) { ... }`."""

    line: int
    variable: Variable
    source: "Statement"
    body: "tuple[Statement, ...]"


@dataclass(frozen=True, slots=True)
class If:
    """`if (...) { ... }`, without else."""

    line: int
    condition: Expression
    body: "tuple[Statement, ...]"


Statement: TypeAlias = CommandCall | Evaluate | Assign | ForEach | If


@dataclass(frozen=True, slots=True)
class ScriptParameter:
    """One parameter of the script; all are mandatory strings."""

    name: str


@dataclass(frozen=True, slots=True)
class Script:
    """A whole script."""

    parameters: tuple[ScriptParameter, ...]
    statements: tuple[Statement, ...]
