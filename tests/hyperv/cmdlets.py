"""How the Hyper-V module's cmdlets take their arguments and report errors.

A cmdlet accepts exactly the parameters of Microsoft's documentation (data/hyperv-cmdlets.json).
One that exists but that the model does nothing with is an error of its own, so that no script
rests on it unseen. Parameter sets are the module's.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hyperv.model_object import invalid_parameter, object_not_found
from hyperv.values import ArrayOf, Command, ParameterType, PowerShellError, Session, text_of
from hyperv.vm import Vm

if TYPE_CHECKING:
    from hyperv.model import SimulatedHost

TABLE = Path(__file__).parent.parent / "data" / "hyperv-cmdlets.json"
VM_SETS: Mapping[str, Collection[str]] = {"VM": (), "VMName": ()}
COMMON: Mapping[str, ParameterType] = {"Confirm": "switch", "Passthru": "switch"}
MACHINES: Mapping[str, ParameterType] = {"VM": ArrayOf(Vm), "VMName": ArrayOf(str)}
NAMED_MACHINES: Mapping[str, ParameterType] = {"VM": ArrayOf(Vm), "Name": ArrayOf(str)}
# What the cmdlets of older Windows do not know yet.
LACKING = {
    "2012R2": {
        ("Set-VM", "AutomaticCheckpointsEnabled"),
        ("Set-VM", "CheckpointType"),
        ("Set-VMNetworkAdapter", "DeviceNaming"),
        ("Add-VMNetworkAdapter", "DeviceNaming"),
        ("Set-VMComPort", "DebuggerMode"),
    },
    "2016": {("Set-VM", "AutomaticCheckpointsEnabled")},
}

_Value = TypeVar("_Value")


@cache
def _table() -> Mapping[str, list[str]]:
    found: Mapping[str, list[str]] = json.loads(TABLE.read_text("utf-8"))["cmdlets"]
    return found


@dataclass(frozen=True, slots=True)
class Call:
    """One use of a cmdlet: its arguments, by their names in full."""

    host: "SimulatedHost"
    given: Mapping[str, object]

    def has(self, name: str) -> bool:
        """Whether an argument was given, be it $null or false."""
        return name in self.given

    def get(self, name: str, kind: type[_Value]) -> _Value | None:
        """An argument, if one that is not $null was given."""
        value = self.given.get(name)
        assert value is None or isinstance(value, kind)
        return value

    def items(self, name: str, kind: type[_Value]) -> list[_Value]:
        """The items of a list argument."""
        value = self.given[name]
        assert isinstance(value, list)
        return [item for item in value if isinstance(item, kind)]

    def switch(self, name: str) -> bool:
        """Whether a switch is on."""
        return self.given.get(name) is True

    def machines(self) -> list[Vm]:
        """The machines meant by VM, VMName or Name, whose patterns may fit several."""
        if self.has("VM"):
            return self.items("VM", Vm)
        found: list[Vm] = []
        for pattern in self.items("VMName" if self.has("VMName") else "Name", str):
            fitting = [vm for vm in self.host.sorted_vms() if fits(pattern, vm.name)]
            if not fitting and not is_pattern(pattern):
                raise object_not_found(
                    f'Hyper-V was unable to find a virtual machine with name "{pattern}".'
                )
            found += fitting
        return found


Run = Callable[[Call], Iterable[object]]


@dataclass(frozen=True, slots=True)
class Cmdlet:
    """A cmdlet of the module, as the model has it.

    `sets` names, for each parameter set, the parameter that chooses it and what belongs to that
    set alone; `required` what each use must have.
    """

    name: str
    run: Run
    types: Mapping[str, ParameterType]
    sets: Mapping[str, Collection[str]]
    required: Collection[str] = ()
    not_empty: Collection[str] = ()
    not_null: Collection[str] = ()
    needs_no_set: bool = False

    def command(self, host: "SimulatedHost") -> Command:
        """The command on one host."""
        lacking = {name for cmdlet, name in LACKING.get(host.windows, ()) if cmdlet == self.name}
        known = [name for name in _table()[self.name] if name not in lacking]
        types = {**COMMON, **self.types}

        def run(_: Session, given: dict[str, object]) -> Iterable[object]:
            try:
                if "Confirm" in known:
                    refuse_prompt(host, given)
                self._check(given)
                return list(self.run(Call(host, given)))
            except PowerShellError as error:
                raise self._as_record(error) from error

        parameters = {name: types.get(name, object) for name in known}
        return Command(f"Hyper-V\\{self.name}", parameters, run, frozenset(self.required))

    def _as_record(self, error: PowerShellError) -> PowerShellError:
        if "," in error.error_id:
            return error
        owner = f"Microsoft.HyperV.PowerShell.Commands.{self.name.replace('-', '')}"
        return PowerShellError(error.message, f"{error.error_id},{owner}", error.category)

    def _check(self, given: Mapping[str, object]) -> None:
        for name in given:
            if name not in self.types and name not in COMMON:
                raise PowerShellError(f"{self.name} -{name} is not modelled", "NotModelled")
        self._check_set(given)
        for name in (*self.sets, *self.not_empty):
            if name in given and given[name] in (None, "", []):
                raise _refused(name, "The argument is null or empty.")
        for name in self.not_null:
            if name in given and given[name] is None:
                raise _refused(name, "The argument is null.")

    def _check_set(self, given: Mapping[str, object]) -> None:
        chosen = [name for name in self.sets if name in given]
        if not chosen and self.needs_no_set:
            return
        foreign = {
            name
            for key, names in self.sets.items()
            if key not in chosen
            for name in names
            if not any(name in self.sets[each] for each in chosen)
        }
        if len(chosen) != 1 or foreign & given.keys():
            raise PowerShellError(
                "Parameter set cannot be resolved using the specified named parameters.",
                "AmbiguousParameterSet",
                "InvalidArgument",
            )


def refuse_prompt(host: "SimulatedHost", given: Mapping[str, object]) -> None:
    """Refuse what would ask somebody, as a remote session cannot: ShouldProcess's rule.

    It asks where -Confirm says so, or where the session's $ConfirmPreference is not above the
    cmdlet's own impact, which with "Low" holds for all; -Confirm:$false keeps it from asking.
    """
    asks = host.confirm_preference == "Low" and given.get("Confirm") is not False
    if asks or given.get("Confirm") is True:
        raise PowerShellError(
            "Windows PowerShell is in NonInteractive mode. Read and Prompt functionality is not"
            " available.",
            "InvalidOperation",
            "InvalidOperation",
        )


def _refused(name: str, reason: str) -> PowerShellError:
    return PowerShellError(
        f"Cannot validate argument on parameter '{name}'. {reason}",
        "ParameterArgumentValidationError",
        "InvalidData",
    )


def check_range(name: str, value: int, lowest: int, highest: int) -> None:
    """Refuse a number as ValidateRange does."""
    if not lowest <= value <= highest:
        raise _refused(name, f"{value} is not between {lowest} and {highest}.")


def pass_through(call: Call, value: object) -> Iterator[object]:
    """Give the value where -Passthru asks for it."""
    if call.switch("Passthru"):
        yield value


def check_cluster_path(call: Call, vm: Vm, path: str) -> None:
    """A clustered machine takes only what its cluster can see, as the module checks it."""
    if vm.clustered and not path.lower().startswith("c:\\clusterstorage\\"):
        raise invalid_parameter(
            f"The path '{path}' is not on storage of the cluster that '{vm.name}' belongs to."
        )


# Names with wildcards, as WildcardPattern: * ? [abc] [a-z], and ` before one that is itself.


def is_pattern(text: str) -> bool:
    """Whether a name holds a wildcard that is not escaped."""
    return re.search(r"(?<!`)[*?\[]", text) is not None


def fits(pattern: str, text: str) -> bool:
    """Whether a text fits a pattern, in any case."""
    return _expression(pattern).fullmatch(text) is not None


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    parts = re.findall(r"`.|\[[^\]]+\]|.", pattern, re.DOTALL)
    return re.compile("".join(map(_part, parts)), re.IGNORECASE | re.DOTALL)


def _part(part: str) -> str:
    if part.startswith("`") and len(part) == 2:
        return re.escape(part[1])
    if part.startswith("[") and len(part) > 1:
        return "[" + re.sub(r"([\\^\[])", r"\\\1", part[1:-1]) + "]"
    return {"*": ".*", "?": "."}.get(part, re.escape(text_of(part)))
