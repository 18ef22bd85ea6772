"""A modelled host with one machine, for tests of what is done with it."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bootgraft_agent.wire import JSON
from bootgraft_host.hyperv.machine import HyperVMachine
from bootgraft_host.hyperv.runner import DEFAULT_TIMEOUT, UnreachableError
from bootgraft_host.machine import Media
from hyperv.adapters import Nic
from hyperv.direct import DirectRunner
from hyperv.enums import BOOT_DEVICE
from hyperv.hardware import Dvd
from hyperv.model import SimulatedHost
from hyperv.vm import Vm

ISO = bytes(0x8001) + b"CD001" + bytes(2048)
LIVE = "D:\\iso\\live.iso"
PAYLOAD = "D:\\iso\\ic.iso"
OWN_ISO = "D:\\iso\\own.iso"
NOTES = "ours since 2019\r\n"
MEDIA = Media(Path(LIVE), Path(PAYLOAD))
LOOK = Media(Path(LIVE), None)
ONE_DRIVE = Media(Path(LIVE), Path(PAYLOAD), one_drive=True)


class CutRunner(DirectRunner):
    """A way to the host that is cut: `cut` is asked before and after each script's run."""

    cut: Callable[[str], bool] = staticmethod(lambda _: False)

    def run(
        self,
        script: str,
        asked: Mapping[str, JSON] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> list[Mapping[str, JSON]]:
        if self.cut(script):
            raise UnreachableError(f"{self.host} does not answer")
        answer = super().run(script, asked, timeout=timeout)
        if self.cut(f"{script} done"):
            raise UnreachableError(f"the connection to {self.host} was cut")
        return answer


def make_host(folder: Path, **options: Any) -> SimulatedHost:
    """A host with the ISOs."""
    host = SimulatedHost(folder, **options)
    for path in (LIVE, PAYLOAD, OWN_ISO):
        host.files.put(path, ISO)
    return host


def watched_host(folder: Path) -> Iterator[SimulatedHost]:
    """A host with another machine, which nothing may touch."""
    host = make_host(folder)
    bystander = host.add_vm("bystander", adapters=(Nic(mac="00155D0A0B0F"),), notes="not yours")
    before = host.describe(bystander)
    yield host
    host.fault = lambda _: None
    assert host.describe(bystander) == before


def machine_of(vm: Vm, runner: DirectRunner | None = None) -> HyperVMachine:
    """The machine as a controller sees it; a new one is a new controller."""
    return HyperVMachine(runner or DirectRunner(vm.host), str(vm.id), vm.name)


def add_appliance(host: SimulatedHost, **settings: Any) -> Vm:
    """A machine with an ISO and notes of its own, which tries its disk first."""
    order = ("IDE", "CD", "LegacyNetworkAdapter", "Floppy")
    given: dict[str, Any] = {
        "dvd_drives": (Dvd(path=OWN_ISO),),
        "adapters": (Nic(mac="00155D0A0B0C"),),
        "notes": NOTES,
        "startup_order": [BOOT_DEVICE.value(name) for name in order],
    }
    return host.add_vm("appliance", **(given | settings))


def drives(vm: Vm) -> dict[tuple[int, int], str | None]:
    """The ISOs in the DVD drives, by their slots."""
    return {(drive.number, drive.location): drive.path for drive in vm.dvd_drives}
