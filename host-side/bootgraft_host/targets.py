"""From what the user names as the machine to the machine."""

from pathlib import Path
from urllib.parse import unquote

from bootgraft_host.machine import Machine

_HYPERV = "hyperv://"


def machine_for(target: str) -> Machine:
    """Return the machine that `target` names.

    That is a vm.toml, the folder that holds one, or hyperv://HOST/VM. Raises ConfigurationError
    where there is none, or its description is wrong, MachineError where its host does not say.
    """
    if is_on_hyperv(target):
        from bootgraft_host.hyperv.machine import open_machine  # noqa: PLC0415 - loads much

        return open_machine(target)
    from bootgraft_host.qemu import QemuMachine  # noqa: PLC0415 - not for Windows

    path = Path(target)
    return QemuMachine(path / "vm.toml" if path.is_dir() else path)


def is_on_hyperv(target: str) -> bool:
    """Whether the machine is on a Hyper-V host, where paths are that host's."""
    return target.lower().startswith(_HYPERV)


def absolute_target(target: str) -> str:
    """Give what names the machine from any folder."""
    return target if is_on_hyperv(target) else str(Path(target).absolute())


def may_name(target: str, known: str, name: str) -> bool:
    """Whether `target` may name a machine that is known by another target and by its name.

    The machine itself, which knows for sure, may be out of reach.
    """
    if not is_on_hyperv(target):
        return known in {target, str(Path(target) / "vm.toml")}
    host, _, vm = target[len(_HYPERV) :].partition("/")
    known_host, _, known_id = known[len(_HYPERV) :].partition("/")
    return (
        is_on_hyperv(known)
        and host.lower() == known_host.lower()
        and unquote(vm).casefold() in {name.casefold(), unquote(known_id).casefold()}
    )
