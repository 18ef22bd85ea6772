"""Nothing is copied to a folder that others could have made or may change, nor removed there."""

import ntpath
from pathlib import Path

import pytest

from bootgraft_host.hyperv import upload
from bootgraft_host.hyperv.permissions import (
    folder_sddl,
    machine_sid,
)
from bootgraft_host.hyperv.runner import (
    HostError,
    ScriptError,
)
from bootgraft_host.hyperv.upload import (
    remove_uploads,
    upload_isos,
)
from hyperv.model import SimulatedHost
from hyperv.uploads import (
    BASE,
    FOLDER,
    SIZE,
    VM_ID,
    FaultyRunner,
    do_upload,
    ignore,
    make_iso,
    names_in,
)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "RETRY_INTERVAL", 0.0)
    monkeypatch.setattr(upload, "RETRY_FOR", 5.0)  # without pauses that is very long


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    return SimulatedHost(tmp_path / "host")


@pytest.fixture
def runner(host: SimulatedHost) -> FaultyRunner:
    return FaultyRunner(host)


@pytest.fixture
def iso(tmp_path: Path) -> Path:
    return make_iso(tmp_path / "live.iso", SIZE)


def refuse(runner: FaultyRunner, iso: Path, path: str, words: str) -> None:
    with pytest.raises(HostError) as refused:
        do_upload(runner, iso)
    assert f"{path} on hv1.example.com is not a safe place for ISOs" in str(refused.value)
    assert words in str(refused.value)
    assert runner.count("write-block") == 0


def test_a_base_that_others_may_change_is_refused(
    host: SimulatedHost, runner: FaultyRunner, iso: Path
) -> None:
    host.files.locate(BASE).mkdir()
    host.files.secure(BASE, "O:BAD:AI(A;OICIID;FA;;;BA)(A;CIID;DCLCRPCR;;;BU)")
    refuse(runner, iso, BASE, "besides administrators, BU may change it")


def test_a_base_that_somebody_else_owns_is_refused(
    host: SimulatedHost, runner: FaultyRunner, iso: Path
) -> None:
    host.files.locate(BASE).mkdir()
    host.files.secure(BASE, "O:S-1-5-21-1-2-3-1001D:P(A;OICI;FA;;;BA)")
    refuse(runner, iso, BASE, "S-1-5-21-1-2-3-1001 may change it")


def test_a_base_that_is_a_junction_is_refused(
    host: SimulatedHost, runner: FaultyRunner, iso: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    host.files.locate(BASE).symlink_to(elsewhere)
    host.files.secure(BASE, folder_sddl([]))
    refuse(runner, iso, BASE, "it is a link to another folder")
    assert list(elsewhere.iterdir()) == []


def test_a_machines_folder_with_other_permissions_is_refused(
    host: SimulatedHost, runner: FaultyRunner, iso: Path
) -> None:
    upload_isos(runner, None, VM_ID, [], ignore)
    host.files.secure(FOLDER, folder_sddl([machine_sid(VM_ID), "S-1-5-11"]))
    refuse(runner, iso, FOLDER, "it also has AU 0x1200a9")


def test_a_machines_folder_that_is_a_junction_is_refused(
    host: SimulatedHost, runner: FaultyRunner, iso: Path, tmp_path: Path
) -> None:
    upload_isos(runner, None, VM_ID, [], ignore)
    host.files.locate(FOLDER).rmdir()
    host.files.locate(FOLDER).symlink_to(tmp_path)
    host.files.secure(FOLDER, folder_sddl([machine_sid(VM_ID)]))
    refuse(runner, iso, FOLDER, "it is a link to another folder")


@pytest.mark.parametrize("sddl", ["O:BAD:P(A;;FA;;;AU)", "O:S-1-5-21-1-2-3-1001D:P(A;;FA;;;BA)"])
def test_a_base_in_a_folder_that_others_may_replace_is_refused_and_not_made(
    host: SimulatedHost, runner: FaultyRunner, iso: Path, sddl: str
) -> None:
    host.files.locate("D:\\shared").mkdir(parents=True)
    host.files.secure("D:\\shared", sddl)
    with pytest.raises(HostError, match="may put another in its place, by the permissions of"):
        do_upload(runner, iso, base="D:\\shared\\isos")
    assert names_in(host, "D:\\shared") == []


# As icacls and Get-Acl show them: the system's drive, a data volume of a server's, and one of a
# client's, where authenticated users may even delete what they find.
DRIVE_C = (
    "O:S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464D:PAI(A;;LC;;;AU)"
    "(A;OICIIO;SDGXGWGR;;;AU)(A;;FA;;;SY)(A;OICIIO;GA;;;SY)(A;OICIIO;GA;;;BA)(A;;FA;;;BA)"
    "(A;OICI;0x1200a9;;;BU)"
)
SERVERS_DATA = (
    "O:BAD:(A;OICI;FA;;;BA)(A;OICI;FA;;;SY)(A;OICIIO;GA;;;CO)(A;OICI;0x1200a9;;;BU)(A;CI;LC;;;BU)"
    "(A;CIIO;DC;;;BU)(A;;0x1200a9;;;WD)"
)
CLIENTS_DATA = "O:BAD:(A;;FA;;;BA)(A;;FA;;;SY)(A;;0x1301bf;;;AU)(A;OICIIO;SDGXGWGR;;;AU)"


def test_the_drives_of_windows_are_no_obstacle(
    host: SimulatedHost, runner: FaultyRunner, iso: Path
) -> None:
    for drive, sddl in (("C:\\", DRIVE_C), ("D:\\", SERVERS_DATA), ("E:\\", CLIENTS_DATA)):
        host.files.locate(drive).mkdir(exist_ok=True)
        host.files.secure(drive, sddl)
    for base in (None, "C:\\isos", "D:\\isos", "E:\\isos", "D:\\new\\isos"):
        do_upload(runner, iso, base=base)


def test_a_base_behind_a_junction_is_refused_and_not_made(
    host: SimulatedHost, runner: FaultyRunner, iso: Path, tmp_path: Path
) -> None:
    host.files.locate("D:\\").mkdir(parents=True, exist_ok=True)
    host.files.locate("D:\\shared").symlink_to(tmp_path)
    with pytest.raises(HostError, match="shared is a link to another folder"):
        do_upload(runner, iso, base="D:\\shared\\isos")
    assert not (tmp_path / "isos").exists()


@pytest.mark.parametrize("planted", [BASE, FOLDER])
@pytest.mark.parametrize("sddl", ["O:BAD:P(A;;FA;;;BU)", "O:S-1-5-21-1-2-3-1001D:P(A;;FA;;;BA)"])
def test_nothing_is_removed_from_a_folder_that_is_not_ours_alone(
    host: SimulatedHost, runner: FaultyRunner, iso: Path, planted: str, sddl: str
) -> None:
    (uploaded,) = do_upload(runner, iso)
    host.files.secure(planted, sddl)
    remove_uploads(runner, None, VM_ID)
    assert names_in(host, FOLDER) == [ntpath.basename(uploaded.path)]
    assert runner.count("remove") == 0


def test_nothing_is_removed_through_a_junction(
    host: SimulatedHost, runner: FaultyRunner, tmp_path: Path
) -> None:
    upload_isos(runner, None, VM_ID, [], ignore)
    host.files.locate(FOLDER).rmdir()
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (theirs := elsewhere / "bootgraft-0123456789abcdef.iso").touch()
    host.files.locate(FOLDER).symlink_to(elsewhere)
    host.files.secure(FOLDER, folder_sddl([machine_sid(VM_ID)]))
    remove_uploads(runner, None, VM_ID)
    assert theirs.exists()


def test_a_file_in_the_folders_place_is_an_error_in_the_hosts_words(
    host: SimulatedHost, runner: FaultyRunner, iso: Path
) -> None:
    host.files.put(BASE, b"")
    with pytest.raises(ScriptError, match="make-folder failed"):
        do_upload(runner, iso)
