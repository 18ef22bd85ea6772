"""Calling single cmdlets of the modelled host, as a script would."""

from bootgraft_agent.wire import JSON
from hyperv.binding import Given, bind
from hyperv.direct import DirectRunner
from hyperv.model import SimulatedHost
from hyperv.values import Session
from hyperv.vm import Vm


def call(host: SimulatedHost, name: str, **arguments: object) -> list[object]:
    """Run one cmdlet, by its name with or without a module, and give what it writes."""
    world = host.world()
    command = world.commands[(name if "\\" in name else f"Hyper-V\\{name}").lower()]
    words = [Given(each, value, has_value=True) for each, value in arguments.items()]
    return list(command.run(Session(world), bind(command, words)))


def change(host: SimulatedHost, vm: Vm, **wanted: JSON) -> None:
    """Run the change script with these lists, all others empty."""
    asked: dict[str, JSON] = {name: [] for name in CHANGE_LISTS}
    DirectRunner(host).run("change", {**asked, **wanted, "Id": str(vm.id)})


CHANGE_LISTS = (
    "EjectFrom",
    "RemoveDvdDrives",
    "AddDvdDrives",
    "Insert",
    "RemoveAdapters",
    "AddAdapters",
    "SetAdapters",
    "Bios",
    "ComPorts",
    "AutomaticActions",
    "AutomaticCheckpoints",
)


def slot(number: int, location: int, **more: JSON) -> dict[str, JSON]:
    """A slot as the change script wants it."""
    return {"ControllerNumber": number, "ControllerLocation": location, **more}
