"""LVM on the guest's disks: which logical volumes there are, and starting some for a moment.

Nothing here runs but when a guest is looked for. LVM's own tool reads and starts them; it reads no
file of configuration, keeps no file of its own, waits for no rule of udev's, and sees no device but
the guest's physical volumes, which are read-only while a guest is looked at.

Sources: lvm(8), lvmreport(7), lvm.conf(5); the UUID that a started volume has in device-mapper:
lvm2, lib/activate/dev_manager.c, build_dm_uuid().
"""

import contextlib
import json
import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bootgraft_agent.errors import RefusedError
from bootgraft_agent.mounts import WORK, CommandError, run

_log = logging.getLogger(__name__)

PHYSICAL_VOLUME = "LVM2_member"  # what udev calls the content of a physical volume
_TIMEOUT = 120.0  # seconds
# lvm(8): no lvm.conf, and no word on the files that this process has open.
_ENVIRONMENT = {"LVM_SYSTEM_DIR": "", "LVM_SUPPRESS_FD_WARNINGS": "1"}
_CONFIGURATION = (
    "backup { backup=0 archive=0 }",
    'devices { hints="none" }',
    "global { use_lvmpolld=0 }",
    "activation { monitoring=0 udev_sync=0 udev_rules=0 }",
)
# Names go to LVM's command line; LVM itself makes no others.
_NAME = re.compile(r"[A-Za-z0-9+_.][A-Za-z0-9+_.-]{0,127}")
_MOST_VOLUMES = 256
_SYS_BLOCK = Path("/sys/block")
_OURS = WORK / "started-volumes"  # their UUIDs in device-mapper


@dataclass(frozen=True, slots=True)
class LogicalVolume:
    """A logical volume; `dm_uuid` is what device-mapper knows it by while it is started."""

    group: str
    name: str
    dm_uuid: str
    physical: tuple[str, ...]  # kernel names of its group's physical volumes: "sda2"

    def __str__(self) -> str:
        return f"{self.group}/{self.name}"

    @property
    def node_names(self) -> tuple[str, str]:
        """Its nodes in a guest's /dev, as a guest's fstab may name it."""
        mapped = "-".join(each.replace("-", "--") for each in (self.group, self.name))
        return f"/dev/{self.group}/{self.name}", f"/dev/mapper/{mapped}"


@dataclass(frozen=True, slots=True)
class Found:
    """The logical volumes that can be started, and why others cannot."""

    volumes: tuple[LogicalVolume, ...]
    problems: tuple[str, ...]


def read_logical_volumes(physical: Sequence[str]) -> Found:
    """Read which logical volumes physical volumes, by their kernel names, hold.

    Groups of one name, and copies of one physical volume, cannot be told apart: they are problems.
    """
    if not physical:
        return Found((), ())
    try:
        members = _report("pvs", "pv", physical, "pv_name,pv_uuid,vg_name,vg_uuid")
        rows = _report("lvs", "lv", physical, "vg_name,vg_uuid,lv_name,lv_uuid,lv_role")
    except CommandError as error:
        return Found((), (f"LVM cannot read {', '.join(physical)}: {error}",))
    return parse_reports(members, rows)


def parse_reports(members: Sequence[Mapping[str, str]], rows: Sequence[Mapping[str, str]]) -> Found:
    """Judge what LVM reports of physical (`members`) and of logical volumes."""
    problems = [*_copies(members), *_same_names(members)]
    if problems:
        return Found((), tuple(problems))
    groups: dict[str, list[str]] = defaultdict(list)
    for member in members:
        groups[member["vg_uuid"]].append(_kernel_name(member))
    volumes = []
    for row in rows:
        if "private" in row["lv_role"].split(","):
            continue
        if not (_NAME.fullmatch(row["vg_name"]) and _NAME.fullmatch(row["lv_name"])):
            problems.append(f"LVM reports the volume {row['vg_name']!r}/{row['lv_name']!r}")
            continue
        uuids = (row["vg_uuid"] + row["lv_uuid"]).replace("-", "")
        physical = tuple(sorted(groups[row["vg_uuid"]]))
        volumes.append(LogicalVolume(row["vg_name"], row["lv_name"], f"LVM-{uuids}", physical))
    if len(volumes) > _MOST_VOLUMES:
        problems.append(f"more than {_MOST_VOLUMES} logical volumes; the rest is not looked at")
    return Found(tuple(volumes[:_MOST_VOLUMES]), tuple(problems))


def _copies(members: Sequence[Mapping[str, str]]) -> Iterator[str]:
    by_uuid: dict[str, list[str]] = defaultdict(list)
    for member in members:
        if member["pv_uuid"]:
            by_uuid[member["pv_uuid"]].append(_kernel_name(member))
    for uuid, names in by_uuid.items():
        if len(names) > 1:
            yield (
                f"{' and '.join(names)} are one and the same physical volume of LVM, {uuid}: one"
                " disk is a copy of the other; detach one of them"
            )


def _same_names(members: Sequence[Mapping[str, str]]) -> Iterator[str]:
    by_name: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for member in members:
        if member["vg_name"]:
            by_name[member["vg_name"]][member["vg_uuid"]].append(_kernel_name(member))
    for name, groups in by_name.items():
        if len(groups) > 1:
            places = " and ".join("+".join(sorted(each)) for each in groups.values())
            yield (
                f"two volume groups are called {name}, on {places}, and LVM starts neither: detach"
                " the disk of one, or rename it in its own machine (vgrename)"
            )


def _kernel_name(member: Mapping[str, str]) -> str:
    return Path(member["pv_name"]).name


def _report(command: str, kind: str, physical: Sequence[str], fields: str) -> list[dict[str, str]]:
    """Ask LVM for a table. Raises CommandError."""
    shape = ["--reportformat", "json", "--options", fields]
    # Of physical volumes all, so that copies are among them.
    everything = ["--all"] if command == "pvs" else []
    text = _lvm(command, physical, [*everything, *shape])
    try:
        rows = json.loads(text)["report"][0][kind]
        return [{str(key): str(value) for key, value in row.items()} for row in rows]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise CommandError(f"lvm {command} reports what is no table: {text[:200]!r}") from error


def _lvm(
    command: str, physical: Sequence[str], arguments: Sequence[str], *more_configuration: str
) -> str:
    argv = [
        *("lvm", command, "--config", " ".join((*_CONFIGURATION, *more_configuration))),
        *("--devices", ",".join(f"/dev/{name}" for name in physical)),
        *arguments,
    ]
    return run(argv, _TIMEOUT, environment=_ENVIRONMENT)


@contextlib.contextmanager
def started(
    volumes: Sequence[LogicalVolume], *, writable: bool = False
) -> Iterator[Mapping[LogicalVolume, Path]]:
    """Start logical volumes, and stop them; give the nodes of those that could be started.

    Without `writable` the kernel refuses writes to them. Raises RefusedError where one is started
    already by somebody else, who may be using it.
    """
    if not volumes:
        yield {}
        return
    _check_stopped(volumes)
    names = [str(volume) for volume in volumes]
    listed = ", ".join(f'"{name}"' for name in names)
    read_only = () if writable else (f"activation {{ read_only_volume_list=[ {listed} ] }}",)
    WORK.mkdir(mode=0o700, exist_ok=True)
    _OURS.write_text("\n".join(volume.dm_uuid for volume in volumes), encoding="ascii")
    try:
        try:
            _lvm("lvchange", _physical(volumes), ["--activate", "y", *names], *read_only)
        except CommandError as error:
            _log.warning("not every logical volume can be started: %s", error)
        nodes = {volume: _find_node(volume) for volume in volumes}
        yield {volume: node for volume, node in nodes.items() if node is not None}
    finally:
        try:
            _stop(volumes)
        except CommandError as error:  # what was done is done; the next start tries it again
            _log.warning("not every logical volume can be stopped: %s", error)


def _check_stopped(volumes: Sequence[LogicalVolume]) -> None:
    """Stop what an agent that was cut off has left started; refuse what others have started."""
    busy = [volume for volume in volumes if _find_node(volume) is not None]
    ours = set(_OURS.read_text(encoding="ascii").split()) if _OURS.exists() else set()
    words = f"the logical volumes {', '.join(map(str, busy))} are started already"
    remedy = "stop them with `lvm vgchange --activate n`"
    if any(volume.dm_uuid not in ours for volume in busy):
        raise RefusedError(f"{words}, by hand; {remedy}")
    try:
        _stop(volumes)
    except CommandError as error:
        raise RefusedError(f"{words}, and in use; {remedy}: {error}") from error


def _stop(volumes: Sequence[LogicalVolume]) -> None:
    """Stop those that are started. Raises CommandError."""
    if any(_find_node(volume) is not None for volume in volumes):
        names = [str(volume) for volume in volumes]
        _lvm("lvchange", _physical(volumes), ["--activate", "n", *names])


def _physical(volumes: Sequence[LogicalVolume]) -> list[str]:
    return sorted({name for volume in volumes for name in volume.physical})


def _find_node(volume: LogicalVolume) -> Path | None:
    """Find the kernel's own node of a volume that is started."""
    for path in _SYS_BLOCK.glob("dm-*/dm/uuid"):
        with contextlib.suppress(OSError):  # it may be on its way out
            if path.read_text(encoding="utf-8").strip() == volume.dm_uuid:
                return Path("/dev") / path.parent.parent.name
    return None
