"""From `hyperv://HOST/VM` to a machine's Id on a host."""

import re
import uuid
from dataclasses import dataclass
from urllib.parse import unquote

from bootgraft_host.hyperv.runner import Runner
from bootgraft_host.hyperv.vm import FoundVm, find_vms
from bootgraft_host.machine import ConfigurationError

SCHEME = "hyperv://"

_HOST = re.compile(r"\.|[A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\]")
_FORM = f"a machine on a Hyper-V host is named as in {SCHEME}HOST/VM, where VM is its name or Id"


@dataclass(frozen=True, slots=True)
class Target:
    """A host, "." for this computer, and the name or Id of a machine on it."""

    host: str
    vm: str

    @property
    def vm_id(self) -> str | None:
        """The machine's Id, where it is one; in lower case."""
        try:
            parsed = str(uuid.UUID(self.vm))
        except ValueError:
            return None
        return parsed if self.vm.strip("{}").lower() == parsed else None


def parse_target(target: str) -> Target:
    """Parse `hyperv://HOST/VM`; characters of VM may be percent-encoded, and "%" itself must be.

    Raises ConfigurationError.
    """
    host, slash, vm = target[len(SCHEME) :].partition("/")
    if not target.lower().startswith(SCHEME) or not slash or not vm:
        raise ConfigurationError(f"{target!r} is no such name: {_FORM}")
    if not _HOST.fullmatch(host):
        raise ConfigurationError(
            f"{target!r}: {host!r} is no name of a host; how it is reached (address, port, user) is"
            " said in hosts.toml"
        )
    try:
        name = unquote(vm, errors="strict")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{target!r}: the machine's name is not UTF-8 text") from error
    if not name.isprintable():
        raise ConfigurationError(f"{target!r}: the machine's name has a character that cannot be")
    return Target(host, name)


def find_vm(runner: Runner, name: str) -> FoundVm:
    """Find the one machine of that name, whatever its case. Raises ConfigurationError."""
    all_vms = find_vms(runner)
    found = [vm for vm in all_vms if vm.name.casefold() == name.casefold()]
    found = [vm for vm in found if vm.name == name] or found
    if not found:
        raise ConfigurationError(f"{runner.host} has no machine named {name!r}{_suggest(all_vms)}")
    if len(found) > 1:
        ids = ", ".join(f"{SCHEME}{runner.host}/{vm.id} ({vm.state})" for vm in found)
        raise ConfigurationError(
            f"{runner.host} has {len(found)} machines named {name!r}; name the one you mean by its"
            f" Id: {ids}"
        )
    return found[0]


def _suggest(vms: tuple[FoundVm, ...]) -> str:
    if not vms:
        return ", nor any other that you may see"
    names = sorted(vm.name for vm in vms)
    return f"; it has {', '.join(names[:10])}{' and more' if len(names) > 10 else ''}"
