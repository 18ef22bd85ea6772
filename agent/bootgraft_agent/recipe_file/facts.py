"""Facts about any Linux guest, from its own files.

Sources: os-release(5); Red Hat's, SUSE's and Debian's release files before it; ELF's e_machine.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bootgraft_agent.errors import RefusedError
from bootgraft_agent.recipe_file import fstab_edits
from bootgraft_agent.recipe_file.ini_edits import get_key
from bootgraft_agent.recipe_file.text_lines import EditError, body, split_lines, to_text
from bootgraft_agent.recipe_file.variable_edits import get_shell
from bootgraft_agent.wire import JSON
from bootgraft_agent.world import View

MAX_INTERFACES = 64
MAX_KERNELS = 64

# e_machine, and whether the word is of 64 bits.
_MACHINES = {
    (3, 1): "i386",
    (62, 1): "x32",
    (62, 2): "x86_64",
    (40, 1): "arm",
    (183, 2): "aarch64",
    (20, 1): "ppc",
    (21, 2): "ppc64",
    (22, 2): "s390x",
    (50, 2): "ia64",
    (243, 2): "riscv64",
}
_PROGRAMS = ("/bin/sh", "/sbin/init", "/usr/bin/env", "/bin/busybox", "/usr/lib/systemd/systemd")
_HEADER = 20  # bytes of an ELF file up to e_machine's end
_MAX_PROGRAM = 8 * 1024 * 1024

_RELEASE = re.compile(r"(?P<name>.*?)\s+(?:release|Linux)\s+(?P<version>\d[\d.]*)")
_VERSION = re.compile(r"\d+(?:\.\d+)*")
_RED_HAT_NAMES = {
    "red hat": "rhel",
    "centos": "centos",
    "fedora": "fedora",
    "oracle": "ol",
    "enterprise": "ol",
    "scientific": "scientific",
    "xenserver": "xenserver",
    "xcp-ng": "xcp-ng",
}
_SUSE_NAMES = {"opensuse": "opensuse", "enterprise desktop": "sled", "enterprise": "sles"}

_INTERFACE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,14}")
_MAC = re.compile(r"(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}")
_RULE_NAME = re.compile(rb'NAME="([^"]+)"')
_RULE_MAC = re.compile(rb'ATTRS?\{address\}=="([^"]+)"')
_IFCFG = "/etc/sysconfig/network-scripts", "/etc/sysconfig/network"
_RULES = (
    "/etc/udev/rules.d/70-persistent-net.rules",
    "/etc/udev/rules.d/30-net_persistent_names.rules",
    "/etc/udev/rules.d/z25_persistent-net.rules",
)
_KERNEL_FILE = re.compile(r"(?:vmlinu[xz]|[Ii]mage|kernel)-(?P<version>\d.*)")


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface that the guest's configuration names; its MAC address, or ""."""

    name: str
    mac: str


@dataclass(frozen=True, slots=True)
class LinuxFacts:
    """What recipes select guests by. None and "" stand for what the guest's files do not say.

    like: distributions that it says it is like. root_device: what fstab has for `/`.
    boot_problem: why the boot loader is not known.
    """

    distribution: str | None
    version: str | None
    like: tuple[str, ...]
    architecture: str | None
    boot_loader: str | None
    boot_problem: str | None
    root_device: str | None
    interfaces: tuple[Interface, ...]
    kernels: tuple[str, ...]

    def to_json(self) -> JSON:
        """Give the facts as data."""
        return {
            "distribution": self.distribution,
            "version": self.version,
            "like": list(self.like),
            "architecture": self.architecture,
            "boot_loader": self.boot_loader,
            "boot_problem": self.boot_problem,
            "root_device": self.root_device,
            "interfaces": [{"name": each.name, "mac": each.mac} for each in self.interfaces],
            "kernels": list(self.kernels),
        }


def read_facts(world: View) -> LinuxFacts:
    """Read the facts; what cannot be read is not known."""
    distribution, version, like = _read_distribution(world)
    boot_loader, boot_problem = _read_boot_loader(world)
    fstab = _read(world, "/etc/fstab")
    root = fstab_edits.root_device(fstab) if fstab else None
    return LinuxFacts(
        distribution=distribution,
        version=version,
        like=like,
        architecture=_read_architecture(world),
        boot_loader=boot_loader,
        boot_problem=boot_problem,
        root_device=to_text(root) if root else None,
        interfaces=_read_interfaces(world),
        kernels=_read_kernels(world),
    )


def _read(world: View, path: str) -> bytes | None:
    """Read a text that may not be there, or may be none."""
    try:
        return world.read(path) if world.exists(path) else None
    except RefusedError:
        return None


def _names(world: View, path: str) -> list[str]:
    try:
        return world.names(path) if world.exists(path) else []
    except RefusedError:
        return []


# The distribution


def _read_distribution(world: View) -> tuple[str | None, str | None, tuple[str, ...]]:
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        text = _read(world, path)
        if text is not None and _variable(text, b"ID"):
            like = tuple((_variable(text, b"ID_LIKE") or "").split())
            return _variable(text, b"ID"), _variable(text, b"VERSION_ID"), like
    for read in (_read_ubuntu, _read_suse, _read_red_hat, _read_debian):
        name, version = read(world)
        if name:
            return name, version, ()
    return None, None, ()


def _variable(text: bytes, name: bytes) -> str | None:
    try:
        value = get_shell(text, name)
    except EditError:
        return None
    return to_text(value) if value else None


def _read_ubuntu(world: View) -> tuple[str | None, str | None]:
    text = _read(world, "/etc/lsb-release") or b""
    name = _variable(text, b"DISTRIB_ID")
    return (name.lower(), _variable(text, b"DISTRIB_RELEASE")) if name else (None, None)


def _read_suse(world: View) -> tuple[str | None, str | None]:
    text = to_text(_read(world, "/etc/SuSE-release") or b"")
    first, _, rest = text.partition("\n")
    name = next((_SUSE_NAMES[each] for each in _SUSE_NAMES if each in first.lower()), None)
    version = re.search(r"VERSION\s*=\s*([\d.]+)", rest)
    patch = re.search(r"PATCHLEVEL\s*=\s*(\d+)", rest)
    number = version[1] + (f".{patch[1]}" if patch and patch[1] != "0" else "") if version else None
    return name, number


def _read_red_hat(world: View) -> tuple[str | None, str | None]:
    for path in ("/etc/redhat-release", "/etc/centos-release", "/etc/fedora-release"):
        release = _RELEASE.match(to_text(_read(world, path) or b"").partition("\n")[0][:200])
        if release:
            found = release["name"].lower()
            names = (_RED_HAT_NAMES[each] for each in _RED_HAT_NAMES if each in found)
            return next(names, found.split()[0] if found else None), release["version"]
    return None, None


def _read_debian(world: View) -> tuple[str | None, str | None]:
    text = _read(world, "/etc/debian_version")
    if text is None:
        return None, None
    version = _VERSION.match(to_text(text).strip())
    return "debian", version[0] if version else None


# The machine


def _read_architecture(world: View) -> str | None:
    for path in _PROGRAMS:
        try:
            header = _read_header(world, path)
        except RefusedError:
            continue
        if header.startswith(b"\x7fELF"):
            order = "big" if header[5] == 2 else "little"
            machine = int.from_bytes(header[18:20], "big" if order == "big" else "little")
            if machine == 21 and order == "little":
                return "ppc64le"
            return _MACHINES.get((machine, header[4]))
    return None


def _read_header(world: View, path: str) -> bytes:
    content = world.read(path, _MAX_PROGRAM) if world.exists(path) else b""
    return content[:_HEADER] if len(content) >= _HEADER else b""


def _read_boot_loader(world: View) -> tuple[str | None, str | None]:
    """Give the boot loader, or why it is not known: /boot cannot be looked at."""
    try:
        return _find_boot_loader(world), None
    except RefusedError as error:
        return None, str(error)


def _find_boot_loader(world: View) -> str:
    has_menu = any(world.exists(f"/boot/grub/{name}") for name in ("menu.lst", "grub.conf"))
    has_cfg = any(world.exists(f"/boot/{name}/grub.cfg") for name in ("grub", "grub2"))
    if has_cfg and not (has_menu and world.exists("/boot/grub/stage2")):
        return "grub2"
    if has_menu:
        return "grub-legacy"
    loaders = (f"{place}/loader/loader.conf" for place in ("/boot", "/efi", "/boot/efi"))
    return "systemd-boot" if any(map(world.exists, loaders)) else "none"


def _read_kernels(world: View) -> tuple[str, ...]:
    matches = (_KERNEL_FILE.fullmatch(name) for name in _names(world, "/boot"))
    versions = dict.fromkeys(match["version"] for match in matches if match)
    return tuple(version for version in versions if version.isprintable())


# The network


def _read_interfaces(world: View) -> tuple[Interface, ...]:
    found: dict[str, str] = {}
    for name, mac in (*_rules(world), *_ifcfg(world), *_ifupdown(world), *_units(world)):
        usable = _INTERFACE.fullmatch(name) and name not in ("lo", "all", "default")
        if usable and not name.startswith("ifcfg"):
            known = mac.lower() if _MAC.fullmatch(mac) else ""
            found[name] = found.get(name) or known
    return tuple(Interface(name, mac) for name, mac in found.items())


def _rules(world: View) -> Iterator[tuple[str, str]]:
    """Give what udev's rules have kept: names of adapters by their MAC addresses."""
    for path in _RULES:
        for line in split_lines(_read(world, path) or b""):
            name = None if line.lstrip().startswith(b"#") else _RULE_NAME.search(line)
            mac = _RULE_MAC.search(line)
            if name:
                yield to_text(name[1]), to_text(mac[1]) if mac else ""


def _ifcfg(world: View) -> Iterator[tuple[str, str]]:
    """Give Red Hat's and SUSE's configuration files."""
    for directory in _IFCFG:
        for name in _names(world, directory):
            if name.startswith("ifcfg-") and not name.endswith((".bak", ".rpmsave", ".orig", "~")):
                text = _read(world, f"{directory}/{name}") or b""
                device = _variable(text, b"DEVICE") or name.removeprefix("ifcfg-")
                yield device, _variable(text, b"HWADDR") or ""


def _ifupdown(world: View) -> Iterator[tuple[str, str]]:
    """Give Debian's /etc/network/interfaces, and the files beside it."""
    directory = "/etc/network/interfaces.d"
    paths = [
        "/etc/network/interfaces",
        *(f"{directory}/{each}" for each in _names(world, directory)),
    ]
    for path in paths:
        for line in split_lines(_read(world, path) or b""):
            words = to_text(body(line)).split()
            if words[:1] in (["auto"], ["allow-hotplug"]):
                yield from ((word, "") for word in words[1:])
            elif words[:1] == ["iface"] and len(words) > 1:
                yield words[1], ""


def _units(world: View) -> Iterator[tuple[str, str]]:
    """Give networkd's and NetworkManager's files."""
    for directory, end, section, key, mac in (
        ("/etc/systemd/network", ".network", b"Match", b"Name", b"MACAddress"),
        (
            "/etc/NetworkManager/system-connections",
            ".nmconnection",
            b"connection",
            b"interface-name",
            b"",
        ),
    ):
        for name in _names(world, directory):
            text = _read(world, f"{directory}/{name}") if name.endswith(end) else None
            if text is not None:
                for word in _ini(text, section, key).split():
                    yield word, _ini(text, section, mac) if mac else ""


def _ini(text: bytes, section: bytes, key: bytes) -> str:
    try:
        return to_text(get_key(text, section, key) or b"")
    except EditError:
        return ""


def loop_values(facts: LinuxFacts, for_each: str | None) -> Iterable[dict[str, str]]:
    """Give the placeholders' values for each turn of a `for_each`; one turn without any."""
    match for_each:
        case "interfaces":
            _bound(len(facts.interfaces), MAX_INTERFACES, "network interfaces")
            return [{"interface": each.name, "mac": each.mac} for each in facts.interfaces]
        case "kernels":
            _bound(len(facts.kernels), MAX_KERNELS, "kernels")
            return [{"kernel": each} for each in facts.kernels]
    return [{}]


def _bound(found: int, limit: int, what: str) -> None:
    if found > limit:
        raise RefusedError(f"the guest has {found} {what}; a recipe goes over {limit} at most")
