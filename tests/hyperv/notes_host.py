"""A host that knows one script, for tests of the way to it."""

import threading
from collections.abc import Iterable

from bootgraft_host.hyperv.runner import Runner
from hyperv.shells import name_script
from hyperv.values import Command, PowerShellError, PSObject, Session, World

VM = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"


# In the place of the package's own scripts, which belong to other tests.
SCRIPT = """
[CmdletBinding()]
param([Parameter(Mandatory = $true)] [string] $Request)
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'
$asked = Microsoft.PowerShell.Utility\\ConvertFrom-Json -InputObject $Request
$vm = Hyper-V\\Get-VM -Id $asked.Id
Hyper-V\\Set-VM -VM $vm -Notes $asked.Notes -Confirm:$false
Microsoft.PowerShell.Utility\\ConvertTo-Json -InputObject @($vm) -Depth 6 -Compress
"""
MARK = name_script(SCRIPT)  # what the endpoint calls it


class NotesHost:
    """A host with one virtual machine, whose notes can be changed."""

    def __init__(self) -> None:
        self.vm = PSObject([("Id", VM), ("Name", "appliance"), ("Notes", "")])
        self.error: PowerShellError | None = None
        self.started = threading.Event()
        self.hold = 0.0  # seconds that Set-VM takes
        self.changes = 0

    def world(self) -> World:
        world = World()
        notes = {"VM": object, "Notes": str, "Confirm": "switch"}
        world.add_commands(
            Command("Hyper-V\\Get-VM", {"Id": str}, self._get),
            Command("Hyper-V\\Set-VM", notes, self._set),  # type: ignore[arg-type]
        )
        return world

    def _get(self, _session: Session, _given: dict[str, object]) -> Iterable[object]:
        if self.error is not None:
            raise self.error
        return [self.vm]

    def _set(self, session: Session, given: dict[str, object]) -> Iterable[object]:
        self.started.set()
        if not session.stopping.wait(self.hold):
            self.vm.write("Notes", given["Notes"])
            self.changes += 1
        return []


def mark(runner: Runner, notes: str = "", timeout: float = 60.0) -> None:
    """Run a script that writes something and answers what it finds then."""
    answer = runner.run("mark", {"Id": VM, "Notes": notes}, timeout=timeout)
    assert answer == [{"Id": VM, "Name": "appliance", "Notes": notes}]
