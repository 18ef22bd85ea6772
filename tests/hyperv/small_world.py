"""A host of three machines and a few commands, for tests of the interpreter itself."""

import uuid
from collections.abc import Callable, Iterable, Mapping

from hyperv.powershell import run_script
from hyperv.values import (
    ArrayOf,
    Command,
    DotNet,
    Enumeration,
    HostObject,
    PSObject,
    Session,
    World,
    enum_type,
)

STRICT = "Set-StrictMode -Version 3.0\n$ErrorActionPreference = 'Stop'\n"
GUID = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"
STATE = Enumeration("Tests.State", {"Running": 2, "Off": 3})
ACCESS = Enumeration("Tests.Access", {"Read": 1, "Write": 2})


class Machine(HostObject):
    """A virtual machine of these tests."""

    type_name = "Tests.Machine"

    def __init__(self, name: str) -> None:
        self.name = name
        self.notes = ""

    def properties(self) -> Mapping[str, object]:
        return {
            "Id": uuid.UUID(GUID),
            "Name": self.name,
            "State": STATE.value("Off"),
            "Drives": ["a", "b"],
            "Path": None,
        }

    def methods(self) -> Mapping[str, Callable[..., object]]:
        return {"Rename": self._rename, "Twice": lambda number: 2 * number}

    def _rename(self, name: str) -> None:
        self.name = name

    def write(self, name: str, value: object) -> None:
        if name.lower() != "notes":
            super().write(name, value)
        self.notes = str(value)


MACHINE = Machine("one")


def get_machine(session: Session, given: dict[str, object]) -> Iterable[object]:
    count = given.get("Count", 1)
    assert isinstance(count, int)
    return [MACHINE, Machine("two"), Machine("three")][:count]


def echo(session: Session, given: dict[str, object]) -> Iterable[object]:
    yield PSObject(given.items())


def world() -> World:
    made = World(environment={"ProgramData": "C:\\ProgramData"})
    made.add_commands(
        Command("Tests\\Get-Machine", {"Count": int, "Id": uuid.UUID}, get_machine),
        Command(
            "Tests\\Test-Echo",
            {
                "Name": str,
                "Number": int,
                "Flag": bool,
                "Force": "switch",
                "Confirm": "switch",
                "Machine": Machine,
                "State": STATE,
                "Paths": ArrayOf(str),
                "Any": object,
            },
            echo,
        ),
        Command("Tests\\Test-Must", {"Name": str}, echo, frozenset({"Name"})),
    )
    made.add_types(
        enum_type(ACCESS),
        DotNet("System.Action"),
        DotNet(
            "Tests.Maker",
            constructor=lambda session, name: Machine(name),
            static_methods={"Join": lambda session, *parts: "+".join(map(str, parts))},
            static_properties={"Answer": lambda: 42},
        ),
    )
    return made


def run(text: str, session: Session | None = None) -> list[object]:
    return run_script(STRICT + text, {}, session or Session(world()))
