"""The folder on the host that holds a machine's uploaded ISOs.

    BASE\\<machine's Id>\\bootgraft-<hash>.iso        complete
                        bootgraft-<hash>.iso.part   being copied, or to be resumed

BASE is the host's upload_folder in hosts.toml, or else bootgraft in %ProgramData%, where every
user of the host may make folders. So each of ours is made with its permissions from its first
instant on, and one that was there before is judged by what is read of it.
"""

import ntpath
import uuid

from bootgraft_host.hyperv.host_files import (
    is_folder,
    make_folder,
    read_folder,
    read_host,
)
from bootgraft_host.hyperv.permissions import (
    DELETE,
    REPLACING_CHILDREN,
    find_difference,
    find_writers,
    folder_sddl,
    machine_sid,
)
from bootgraft_host.hyperv.runner import HostError, Runner

DEFAULT_NAME = "bootgraft"  # in %ProgramData%


def find_folder(runner: Runner, base: str | None, vm_id: str) -> str:
    """Give the path of a machine's folder, whether it exists or not.

    `base` is the host's upload_folder; None where hosts.toml has none.
    """
    return ntpath.join(find_base(runner, base), str(uuid.UUID(vm_id)))


def find_base(runner: Runner, base: str | None) -> str:
    """Give the path of the folder that holds the machines' folders."""
    return base or ntpath.join(read_host(runner).program_data, DEFAULT_NAME)


def prepare_folder(runner: Runner, base: str | None, vm_id: str) -> str:
    """Have a machine's folder, and give its path; done twice it is done once.

    Raises HostError where it is, or lies in, a folder that others may change.
    """
    folder = find_folder(runner, base, vm_id)
    above = ntpath.dirname(folder)
    _check_way_to(runner, above)
    if not is_folder(runner, above):
        make_folder(runner, above, folder_sddl(()))
    check_base(runner, above)
    if not is_folder(runner, folder):
        make_folder(runner, folder, folder_sddl([machine_sid(vm_id)]))
    check_folder(runner, folder, [machine_sid(vm_id)])
    return folder


def _check_way_to(runner: Runner, path: str) -> None:
    """Refuse a path of which others could replace a part; what does not exist yet will be ours."""
    parent = ntpath.dirname(path)
    if parent == path:
        return
    _check_way_to(runner, parent)
    if not is_folder(runner, parent):
        return
    found = read_folder(runner, parent)
    if found.is_link:
        raise _refusal(runner, path, f"{parent} is a link to another folder")
    is_root = ntpath.dirname(parent) == parent
    rights = REPLACING_CHILDREN if is_root else REPLACING_CHILDREN | DELETE
    others = find_writers(found.descriptor, rights)
    if others:
        problem = f"besides administrators, {', '.join(others)} may put another in its place"
        raise _refusal(runner, path, f"{problem}, by the permissions of {parent}")


def check_base(runner: Runner, path: str) -> None:
    """Refuse a folder in which others could put their own in the place of ours."""
    found = read_folder(runner, path)
    if found.is_link:
        raise _refusal(runner, path, "it is a link to another folder")
    writers = find_writers(found.descriptor)
    if writers:
        raise _refusal(runner, path, f"besides administrators, {', '.join(writers)} may change it")


def check_folder(runner: Runner, path: str, readers: list[str]) -> None:
    """Refuse a folder that has not exactly the permissions that we give."""
    found = read_folder(runner, path)
    if found.is_link:
        raise _refusal(runner, path, "it is a link to another folder")
    difference = find_difference(found.descriptor, readers)
    if difference is not None:
        raise _refusal(runner, path, difference)


def _refusal(runner: Runner, path: str, reason: str) -> HostError:
    return HostError(
        f"{path} on {runner.host} is not a safe place for ISOs: {reason}; look who made it, and"
        " remove it, or name a folder that does not exist yet as upload_folder in hosts.toml"
    )
