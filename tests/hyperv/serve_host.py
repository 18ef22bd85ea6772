r"""A modelled Hyper-V host in a process of its own, for `bootgraft run hyperv://localhost/VM`.

    python -m hyperv.serve_host FOLDER

    FOLDER/hosts.toml   for BOOTGRAFT_HOSTS
    FOLDER/drives/C/    the host's C:\

It is asked on standard input, a JSON object a line, as in {"do": "describe", "vm": ID}; each
line is answered by one on standard output, {"answer": ...} or {"error": TEXT}, and the first one
comes unasked, when the host can be reached. At the end of its input it turns its machines off.
"""

import argparse
import json
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from host.simulated import Guest
from hyperv.adapters import Nic
from hyperv.endpoint import PASSWORD, USER, Endpoint
from hyperv.enums import BOOT_DEVICE
from hyperv.faults import FaultKind, Faults
from hyperv.gates import Gate
from hyperv.hardware import Disk, Dvd
from hyperv.model import SimulatedHost
from hyperv.power import AgentPower, NoPower, Power, QemuPower
from hyperv.shells import Call
from hyperv.values import Session
from hyperv.vm import Vm

HOST = "localhost"  # as in hyperv://HOST/VM


class GatedEndpoint(Endpoint):
    """An endpoint whose scripts come to a gate before they run."""

    def __init__(self, host: SimulatedHost, folder: Path) -> None:
        super().__init__(host, folder)
        self.gate = Gate()

    def disarm(self) -> None:
        """Let no armed fault happen."""
        self._faults = Faults()

    def _before_script(self, call: Call, session: Session) -> None:
        super()._before_script(call, session)
        self.gate.before_script(call, session)


class ServedHost:
    """A modelled host and the endpoint by which it is reached; a context manager."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.host = SimulatedHost(folder / "drives")
        self.endpoint = GatedEndpoint(self.host, folder)
        self.gate = self.endpoint.gate
        self.hosts_file = folder / "hosts.toml"
        self.host.fault = self.gate.pass_through
        self.host.at_reboot.append(self.endpoint.drop_shells)

    def __enter__(self) -> "ServedHost":
        self.endpoint.start()
        write_hosts_file(self.hosts_file, self.endpoint)
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.let_go(on=False)
        self.endpoint.close()
        for vm in self.host.sorted_vms():
            vm.turn_off()

    def add_vm(
        self,
        name: str,
        *,
        power: str = "agent",
        guest: Mapping[str, Any] | None = None,
        **wanted: Any,
    ) -> Vm:
        """Make a machine; drives and adapters come as their fields, devices by their names."""
        powers: dict[str, Callable[[], Power]] = {
            "none": NoPower,
            "agent": lambda: AgentPower(Guest(**(guest or {}))),
            "qemu": lambda: QemuPower(self.folder / "qemu"),
        }
        kinds: dict[str, Callable[[Any], object]] = {
            "hard_drives": lambda fields: Disk(**fields),
            "dvd_drives": lambda fields: Dvd(**fields),
            "adapters": lambda fields: Nic(**fields),
            "startup_order": BOOT_DEVICE.value,
        }
        for key in kinds.keys() & wanted.keys():
            wanted[key] = [kinds[key](each) for each in wanted[key]]
        return self.host.add_vm(name, power=powers[power](), **wanted)


def write_hosts_file(path: Path, endpoint: Endpoint, *, password: str = PASSWORD) -> None:
    """Write a hosts.toml that leads to the endpoint, and the password's file beside it."""
    secret = path.with_name("password")
    secret.touch(0o600)
    secret.write_text(f"{password}\n", "utf-8")
    path.write_text(
        f'[hosts."{HOST}"]\n'
        f"port = {endpoint.port}\n"
        f'user = "{USER}"\n'
        f'password_file = "{secret.name}"\n'
        f'ca_file = "{endpoint.certificates.authority}"\n'
    )


class Control:
    """What a served host can be asked from outside; each method is a request."""

    def __init__(self, served: ServedHost) -> None:
        self._served = served

    def answer(self, asked: Mapping[str, Any]) -> object:
        """Do what a request wants, and give what it answers."""
        arguments = {name: value for name, value in asked.items() if name != "do"}
        requests: dict[str, Callable[..., object]] = {
            "add_vm": lambda **wanted: str(self._served.add_vm(**wanted).id),
            "describe": lambda vm: self._served.host.describe(self._vm(vm)),
            "state": lambda vm: self._vm(vm).state,
            "start": lambda vm: self._vm(vm).start(),
            "turn_off": lambda vm: self._vm(vm).turn_off(),
            "guest": self._guest,
            "pipe_is_busy": self._pipe_is_busy,
            "hold_at": self._served.gate.hold_at,
            "wait_held": self._served.gate.wait_held,
            "let_go": self._let_go,
            "moments": self._served.gate.names,
            "arm": self._arm,
            "refuse": self._refuse,
            "stop_endpoint": self._served.endpoint.stop,
            "start_endpoint": self._served.endpoint.start,
            "drop_shells": self._served.endpoint.drop_shells,
            "reboot": self._served.host.reboot,
            "look": self._look,
        }
        return requests[asked["do"]](**arguments)

    def _vm(self, vm: str) -> Vm:
        return self._served.host.vms[uuid.UUID(vm)]

    def _guest(self, vm: str) -> object:
        """Give how the guest was booted, and by which run it is grafted."""
        power = self._vm(vm).power
        assert isinstance(power, AgentPower)
        return {"boots": power.boots, "grafted_by": power.disk["grafted_by"]}

    def _pipe_is_busy(self, vm: str) -> bool:
        """Tell whether somebody holds the client's end of COM1's pipe."""
        name = self._vm(vm).com_ports[0].pipe_name
        pipe = self._served.host.pipes.find(name or "")
        return pipe is not None and pipe.connection is not None

    def _let_go(self, *, on: bool) -> None:
        """Let a held script go on, or have it end there, and with it its shell."""
        if not on:
            self._served.endpoint.drop_shells()
        self._served.gate.let_go(on=on)

    def _arm(self, kind: str, script: str | None = None, request: int | None = None) -> None:
        self._served.endpoint.arm(FaultKind[kind], script=script, request=request)

    def _refuse(self, status: int | None) -> None:
        self._served.endpoint.refusal = status

    def _look(self) -> object:
        """Give what is left on the host, and what went wrong in it."""
        drives = self._served.folder / "drives"
        return {
            "shells": self._served.endpoint.shells(),
            "pipes": self._served.host.pipes.names(),
            "files": sorted(
                self._served.host.files.name(path) for path in drives.rglob("*") if path.is_file()
            ),
            "scripts": self._served.endpoint.scripts(),
            "warnings": self._served.host.warnings,
            "problems": [repr(problem) for problem in self._served.endpoint.problems],
        }


def main(argv: list[str]) -> int:
    """Serve a host until the end of the input."""
    parser = argparse.ArgumentParser(prog="python -m hyperv.serve_host", description=__doc__)
    parser.add_argument("folder", type=Path)
    with ServedHost(parser.parse_args(argv).folder.absolute()) as served:
        control = Control(served)
        say({"answer": str(served.hosts_file)})
        for line in sys.stdin:
            try:
                say({"answer": control.answer(json.loads(line))})
            except Exception as error:  # noqa: BLE001 - told to whoever asked
                say({"error": f"{type(error).__name__}: {error}"})
    return 0


def say(document: Mapping[str, object]) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
