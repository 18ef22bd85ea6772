"""From what the user names as the machine to the machine."""

from pathlib import Path

from bootgraft_host.machine import ConfigurationError, Machine
from bootgraft_host.qemu import QemuMachine


def machine_for(target: str) -> Machine:
    """Return the machine that `target` names: a vm.toml, or the folder that holds one.

    Raises ConfigurationError where there is none, or its description is wrong.
    """
    if target.lower().startswith("hyperv://"):
        raise ConfigurationError(f"{target}: machines on a Hyper-V host are not supported yet")
    path = Path(target)
    return QemuMachine(path / "vm.toml" if path.is_dir() else path)
