"""Values, commands and .NET classes as the interpreter and the modelled host exchange them.

PowerShell's own values are Python's: `None`, `bool`, `int`, `float`, `str`, `list` (an array),
`bytearray` (a `byte[]`), `uuid.UUID` (a Guid), `datetime`. The rest is below. Whatever a script
names, it names without regard to case, as PowerShell does.
"""

import enum
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias


class NoOutput(enum.Enum):
    """AutomationNull: what a command or a loop without output gives to an assignment.

    It is $null to all but `@($x)`, which is empty for it and `@($null)` for a true $null.
    """

    NO_OUTPUT = enum.auto()

    def __str__(self) -> str:
        return ""


NO_OUTPUT = NoOutput.NO_OUTPUT


class PowerShellError(Exception):
    """A terminating error: what becomes an error record on the other side."""

    def __init__(
        self, message: str, error_id: str = "RuntimeException", category: str = "NotSpecified"
    ) -> None:
        super().__init__(message)
        self.message = message
        self.error_id = error_id  # FullyQualifiedErrorId
        self.category = category  # a name of System.Management.Automation.ErrorCategory


class StoppedError(PowerShellError):
    """The pipeline was asked to stop."""

    def __init__(self) -> None:
        super().__init__("The pipeline has been stopped.", "PipelineStopped", "OperationStopped")


@dataclass(frozen=True, slots=True)
class EnumValue:
    """A value of a .NET enumeration: `"$x"` gives the name, ConvertTo-Json the number."""

    name: str
    number: int

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Enumeration:
    """A .NET enumeration, also as the type of a command's parameter."""

    name: str
    members: Mapping[str, int]

    def value(self, name: str) -> EnumValue:
        """The member of this name, or of several names with commas between them (flags)."""
        wanted = [part.strip().lower() for part in name.split(",")]
        known = {member.lower(): member for member in self.members}
        unknown = [part for part in wanted if part not in known]
        if unknown:
            raise PowerShellError(
                f'Cannot convert value "{name}" to type "{self.name}": unable to match the'
                f" identifier name {unknown[0]} to a valid enumerator name. Specify one of the"
                f" following: {', '.join(self.members)}",
                "CannotConvertArgumentNoMessage",
                "InvalidArgument",
            )
        number = 0
        for part in wanted:
            number |= self.members[known[part]]
        return EnumValue(", ".join(known[part] for part in wanted), number)


class PSObject:
    """A [pscustomobject], or an object that ConvertFrom-Json made: properties in their order."""

    def __init__(self, properties: Iterable[tuple[str, object]] = ()) -> None:
        self._values: dict[str, tuple[str, object]] = {}
        for name, value in properties:
            self.write(name, value)

    def read(self, name: str) -> object:
        """The property's value; PropertyNotFoundStrict where there is none."""
        try:
            return self._values[name.lower()][1]
        except KeyError:
            raise property_not_found(name) from None

    def write(self, name: str, value: object) -> None:
        """Set a property, or add it."""
        spelled = self._values.get(name.lower(), (name, None))[0]
        self._values[name.lower()] = (spelled, value)

    def properties(self) -> dict[str, object]:
        """All properties, in order, as they were spelled first."""
        return dict(self._values.values())

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._values

    def __str__(self) -> str:
        parts = (f"{name}={text_of(value)}" for name, value in self.properties().items())
        return f"@{{{'; '.join(parts)}}}"


class Hashtable(PSObject):
    """A @{...}: read like an object, and by index."""

    def __str__(self) -> str:
        return "System.Collections.Hashtable"


class HostObject:
    """An object of the modelled host: a virtual machine, a DVD drive, a .NET stream.

    A subclass gives its properties (read-only unless `write` is overridden) and its methods.
    """

    type_name = "System.Object"

    def properties(self) -> Mapping[str, object]:
        """What can be read, by exact name; asked anew at each read."""
        return {}

    def methods(self) -> Mapping[str, Callable[..., object]]:
        """What can be called, by exact name; arguments come by position."""
        return {}

    def read(self, name: str) -> object:
        """A property by name, in any case; PropertyNotFoundStrict where there is none."""
        for known, value in self.properties().items():
            if known.lower() == name.lower():
                return value
        raise property_not_found(name)

    def write(self, name: str, value: object) -> None:
        """Set a property: an error here, as most cannot be set."""
        raise PowerShellError(
            f"'{name}' is a ReadOnly property of {self.type_name}.",
            "PropertyAssignmentException",
            "InvalidOperation",
        )

    def call(self, name: str, arguments: Iterable[object]) -> object:
        """Call a method by name, in any case; MethodNotFound where there is none."""
        return call_method(self.type_name, self.methods(), name, tuple(arguments))

    def __contains__(self, name: str) -> bool:
        return name.lower() in (known.lower() for known in self.properties())

    def __str__(self) -> str:
        return self.type_name


@dataclass(frozen=True, slots=True)
class ArrayOf:
    """The type of a parameter that takes a list; one bare value is a list of one."""

    item: "type | Enumeration"


# How an argument is converted before the command sees it: `str`, `int`, `float`, `bool`,
# `uuid.UUID` and Enumeration as PowerShell converts; a HostObject class must fit; `object` is
# anything. $null stays None (the number parameters of Hyper-V's cmdlets are Nullable).
ParameterType: TypeAlias = type | Enumeration | ArrayOf | Literal["switch"]


@dataclass(frozen=True, slots=True)
class Command:
    """A cmdlet: its module-qualified name, its parameters, and what it does.

    `run` gets the arguments by the names spelled as in `parameters`, converted; a switch that
    was not given is absent. What it yields goes to the output one by one.
    """

    name: str  # "Hyper-V\\Get-VM"
    parameters: Mapping[str, ParameterType]
    run: Callable[["Session", dict[str, object]], Iterable[object]]
    mandatory: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class DotNet:
    """A .NET class as scripts see it. Its instances are HostObjects.

    Constructor and static methods get the Session first, then the script's arguments.
    """

    name: str  # "System.IO.Pipes.NamedPipeClientStream"
    constructor: Callable[..., object] | None = None
    static_methods: Mapping[str, Callable[..., object]] = field(default_factory=dict)
    static_properties: Mapping[str, Callable[[], object]] = field(default_factory=dict)
    cast: Callable[[object], object] | None = None  # what [Type] $value does

    def read(self, name: str) -> object:
        """A static property by name, in any case."""
        for known, read in self.static_properties.items():
            if known.lower() == name.lower():
                return read()
        raise property_not_found(name)

    def call(self, session: "Session", name: str, arguments: Iterable[object]) -> object:
        """Call a static method, or the constructor as `new`."""
        methods = dict(self.static_methods)
        if self.constructor is not None:
            methods["new"] = self.constructor
        return call_method(self.name, methods, name, (session, *arguments))

    def __str__(self) -> str:
        return self.name


def enum_type(enumeration: Enumeration) -> DotNet:
    """An enumeration as a class: [Type]::Member, and [Type] 'Member'."""

    def reader(name: str) -> Callable[[], object]:
        return lambda: enumeration.value(name)

    def cast(value: object) -> object:
        return value if isinstance(value, EnumValue) else enumeration.value(text_of(value))

    members = {name: reader(name) for name in enumeration.members}
    return DotNet(enumeration.name, static_properties=members, cast=cast)


@dataclass(slots=True)
class World:
    """What the scripts of one host can name; commands and types by their lower-cased names."""

    commands: dict[str, Command] = field(default_factory=dict)
    types: dict[str, DotNet] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    def add_commands(self, *commands: Command) -> None:
        """Have these commands, in place of any of the same names."""
        self.commands.update({command.name.lower(): command for command in commands})

    def add_types(self, *types: DotNet) -> None:
        """Have these classes, in place of any of the same names."""
        self.types.update({dot_net.name.lower(): dot_net for dot_net in types})


@dataclass(slots=True)
class Session:
    """One runspace: its global variables stay from script to script.

    `at_end` is called when the runspace goes away, as the end of its process closes handles.
    `stopping` is set while the running script is asked to stop; a command that waits looks at it.
    """

    world: World
    globals: dict[str, object] = field(default_factory=dict)  # by lower-cased name
    at_end: list[Callable[[], None]] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def end(self) -> None:
        """Let go of all that the runspace holds; a second time does nothing."""
        self.stopping.set()
        while self.at_end:
            self.at_end.pop()()
        self.globals.clear()


def property_not_found(name: str) -> PowerShellError:
    """Strict mode's word on a property that an object, or $null, does not have."""
    return PowerShellError(
        f"The property '{name}' cannot be found on this object. Verify that the property exists.",
        "PropertyNotFoundStrict",
        "NotSpecified",
    )


def call_method(
    owner: str,
    methods: Mapping[str, Callable[..., object]],
    name: str,
    arguments: tuple[object, ...],
) -> object:
    """Call the method of this name, in any case, among those of a class."""
    for known, method in methods.items():
        if known.lower() == name.lower():
            return method(*arguments)
    raise PowerShellError(
        f"Method invocation failed because [{owner}] does not contain a method named '{name}'.",
        "MethodNotFound",
        "InvalidOperation",
    )


def text_of(value: object) -> str:
    """A value as it stands in a string: "$($x.Y)"."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list | bytearray):
        return " ".join(text_of(item) for item in value)
    return str(value)


def each(value: object) -> Iterator[object]:
    """What `foreach` goes through: $null is nothing, an array its items, all else one value."""
    if isinstance(value, list | bytearray):
        yield from list(value)
    elif value is not None and value is not NO_OUTPUT:
        yield value


def convert_argument(command: str, name: str, wanted: ParameterType, value: object) -> object:
    """Convert an argument to its parameter's type, as the binder does, or refuse it."""
    if wanted == "switch" or wanted is bool:
        return _to_boolean(command, name, value)
    if value is None or wanted is object:
        return value
    if isinstance(wanted, ArrayOf):
        return [convert_argument(command, name, wanted.item, item) for item in each(value)]
    try:
        return _to_type(wanted, value)
    except (ValueError, TypeError, PowerShellError) as problem:
        raise PowerShellError(
            f"Cannot bind parameter '{name}'. {problem}",
            f"CannotConvertArgumentNoMessage,{command}",
            "InvalidArgument",
        ) from problem


def _to_boolean(command: str, name: str, value: object) -> bool:
    if isinstance(value, bool | int | float):
        return bool(value)
    raise PowerShellError(
        f"Cannot process argument transformation on parameter '{name}'. Cannot convert value"
        f' "{text_of(value)}" to type "System.Boolean".',
        f"ParameterArgumentTransformationError,{command}",
        "InvalidData",
    )


def _to_type(wanted: object, value: object) -> object:
    if isinstance(wanted, Enumeration):
        return wanted.value(text_of(value))
    if isinstance(wanted, type) and isinstance(value, wanted):
        return value
    converters: dict[object, Callable[[object], object]] = {
        str: text_of,
        uuid.UUID: lambda given: uuid.UUID(text_of(given)),
        int: to_integer,
        float: lambda given: float(text_of(given)),
    }
    if wanted not in converters:
        raise TypeError(f'Cannot convert the "{text_of(value)}" value to the type {wanted}.')
    return converters[wanted](value)


def to_integer(value: object) -> int:
    """[int] $value: numbers are rounded half to even, texts parsed."""
    if isinstance(value, EnumValue):
        return value.number
    if isinstance(value, int | float):
        return round(value)
    text = text_of(value).strip()
    return int(text, 16) if text.lower().startswith("0x") else round(float(text or "0"))
