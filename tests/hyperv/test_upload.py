"""ISOs copied to the modelled host, whole or not at all."""

import hashlib
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

import pytest

from bootgraft_agent.wire import JSON
from bootgraft_host.hyperv import upload
from bootgraft_host.hyperv.host_files import BLOCK_SIZE
from bootgraft_host.hyperv.permissions import (
    find_difference,
    machine_sid,
    parse_sddl,
)
from bootgraft_host.hyperv.runner import (
    HostError,
    ScriptError,
    UnreachableError,
)
from bootgraft_host.hyperv.upload import (
    remove_uploads,
    upload_isos,
    verify_again,
)
from bootgraft_host.machine import MachineError
from bootgraft_host.replies import Progress
from hyperv.model import SimulatedHost
from hyperv.uploads import (
    BASE,
    FOLDER,
    SIZE,
    VM_ID,
    FaultyRunner,
    content,
    cut_after,
    do_upload,
    fail_once,
    ignore,
    is_copy,
    make_iso,
    name_of,
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


# A plain upload.


def test_an_iso_arrives_whole_under_a_name_that_its_content_gives(
    host: SimulatedHost, runner: FaultyRunner, iso: Path
) -> None:
    (uploaded,) = do_upload(runner, iso)
    assert uploaded.path == f"{FOLDER}\\{name_of(iso)}"
    assert is_copy(host, uploaded.path, iso)
    assert names_in(host, FOLDER) == [name_of(iso)]
    assert (uploaded.size, uploaded.sha256) == (SIZE, hashlib.sha256(iso.read_bytes()).hexdigest())


def test_the_folders_are_the_administrators_and_the_machine_may_read_its_own(
    host: SimulatedHost, runner: FaultyRunner, iso: Path
) -> None:
    (uploaded,) = do_upload(runner, iso)
    account = machine_sid(VM_ID)
    assert find_difference(parse_sddl(host.files.sddl(FOLDER)), [account]) is None
    assert find_difference(parse_sddl(host.files.sddl(BASE)), []) is None
    assert host.files.may_read(uploaded.path, uuid.UUID(VM_ID))
    assert not host.files.may_read(uploaded.path, uuid.uuid4())


def test_progress_tells_the_bytes_of_each_iso(
    runner: FaultyRunner, iso: Path, tmp_path: Path
) -> None:
    other = make_iso(tmp_path / "payload.iso", 1000, seed=2)
    told: list[Progress] = []
    upload_isos(runner, None, VM_ID, [iso, other], told.append)
    assert [(each.step, each.done, each.total) for each in told] == [
        (1, 0, SIZE),
        (1, BLOCK_SIZE, SIZE),
        (1, 2 * BLOCK_SIZE, SIZE),
        (1, SIZE, SIZE),
        (2, 0, 1000),
        (2, 1000, 1000),
    ]
    assert told[0].text == "upload live.iso to hv1.example.com"


def test_blocks_are_bounded_and_the_last_one_is_flushed(runner: FaultyRunner, iso: Path) -> None:
    blocks: list[Mapping[str, JSON]] = []
    runner.before = lambda script, asked: blocks.append(asked) if script == "write-block" else None
    do_upload(runner, iso)
    assert [len(str(asked["Data"])) <= BLOCK_SIZE * 4 // 3 + 4 for asked in blocks] == [True] * 3
    assert [asked["Flush"] for asked in blocks] == [False, False, True]


def test_the_last_block_waits_for_the_hosts_disk(
    runner: FaultyRunner, iso: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    do_upload(runner, iso)
    assert len(flushed) == 1


def test_an_iso_that_is_there_is_not_copied_again(runner: FaultyRunner, iso: Path) -> None:
    first = do_upload(runner, iso)
    blocks = runner.count("write-block")
    assert do_upload(runner, iso) == first
    assert runner.count("write-block") == blocks


def test_a_complete_iso_of_other_content_is_replaced(
    host: SimulatedHost, runner: FaultyRunner, iso: Path
) -> None:
    (uploaded,) = do_upload(runner, iso)
    host.files.put(uploaded.path, b"damaged")
    do_upload(runner, iso)
    assert is_copy(host, uploaded.path, iso)


def test_a_folder_that_hosts_toml_names_is_used(
    host: SimulatedHost, runner: FaultyRunner, iso: Path
) -> None:
    (uploaded,) = do_upload(runner, iso, base="D:\\isos")
    assert uploaded.path == f"D:\\isos\\{VM_ID}\\{name_of(iso)}"
    assert is_copy(host, uploaded.path, iso)


# Cuts.


def test_an_upload_goes_on_where_it_was_cut(
    host: SimulatedHost, runner: FaultyRunner, iso: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "RETRY_FOR", 0.0)
    runner.before = cut_after(2)
    with pytest.raises(UnreachableError):
        do_upload(runner, iso)
    assert names_in(host, FOLDER) == [name_of(iso) + ".part"]
    later = FaultyRunner(host)
    (uploaded,) = do_upload(later, iso)
    assert [asked["Offset"] for script, asked in later.calls if script == "write-block"] == [
        2 * BLOCK_SIZE
    ]
    assert is_copy(host, uploaded.path, iso)


@pytest.mark.parametrize(
    "left",
    [b"something else", bytes(SIZE), bytes(SIZE + 1)],
    ids=["shorter", "as long", "longer"],
)
def test_a_part_of_something_else_is_begun_anew(
    host: SimulatedHost, runner: FaultyRunner, iso: Path, left: bytes
) -> None:
    (uploaded,) = do_upload(runner, iso)
    remove_uploads(runner, None, VM_ID)
    upload_isos(runner, None, VM_ID, [], ignore)
    host.files.put(uploaded.path + ".part", left)
    do_upload(runner, iso)
    assert is_copy(host, uploaded.path, iso)
    assert names_in(host, FOLDER) == [name_of(iso)]


SCRIPTS = ["host", "files", "make-folder", "folder", "write-block", "hash", "rename"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_request_that_was_cut_is_made_again(
    host: SimulatedHost, runner: FaultyRunner, iso: Path, script: str
) -> None:
    runner.before = fail_once(script)
    (uploaded,) = do_upload(runner, iso)
    assert is_copy(host, uploaded.path, iso)


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_answer_that_was_lost_is_no_harm(
    host: SimulatedHost, runner: FaultyRunner, iso: Path, script: str
) -> None:
    runner.after = fail_once(script)
    (uploaded,) = do_upload(runner, iso)
    assert is_copy(host, uploaded.path, iso)
    assert names_in(host, FOLDER) == [name_of(iso)]


def test_a_host_that_stays_away_ends_the_upload_and_leaves_the_part(
    host: SimulatedHost, runner: FaultyRunner, iso: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "RETRY_FOR", 0.2)
    runner.before = cut_after(1)
    with pytest.raises(UnreachableError, match="the network is gone"):
        do_upload(runner, iso)
    assert len(content(host, f"{FOLDER}\\{name_of(iso)}.part")) == BLOCK_SIZE


# What is found wrong.


def test_a_file_that_changes_while_it_is_copied_is_an_error(
    host: SimulatedHost, runner: FaultyRunner, iso: Path
) -> None:
    def change(script: str, asked: Mapping[str, JSON]) -> None:
        if script == "write-block" and asked["Offset"] == 0:
            with iso.open("r+b") as file:
                file.seek(SIZE - 1)
                file.write(b"x")
            os.utime(iso, ns=(1, 1))

    runner.after = change
    with pytest.raises(MachineError, match=r"live\.iso was not uploaded: it was changed"):
        do_upload(runner, iso)
    assert names_in(host, FOLDER) == []


def test_a_file_that_changes_unnoticed_is_an_error_too(
    host: SimulatedHost, runner: FaultyRunner, iso: Path
) -> None:
    def change(script: str, asked: Mapping[str, JSON]) -> None:
        if script == "write-block" and asked["Offset"] == 0:
            before = iso.stat()
            with iso.open("r+b") as file:
                file.seek(SIZE - 1)
                file.write(bytes([iso.read_bytes()[-1] ^ 1]))
            os.utime(iso, ns=(before.st_atime_ns, before.st_mtime_ns))

    runner.after = change
    with pytest.raises(MachineError, match="it was changed"):
        do_upload(runner, iso)
    assert names_in(host, FOLDER) == []


def test_a_file_that_is_gone_is_an_error(runner: FaultyRunner, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"cannot read .*none\.iso: No such file"):
        do_upload(runner, tmp_path / "none.iso")


def test_what_arrives_damaged_is_removed(
    host: SimulatedHost, runner: FaultyRunner, iso: Path
) -> None:
    def damage(script: str, asked: Mapping[str, JSON]) -> None:
        if script == "write-block" and asked["Flush"]:
            host.files.put(str(asked["Path"]), bytes(SIZE))

    runner.after = damage
    with pytest.raises(MachineError, match="is not what was sent"):
        do_upload(runner, iso)
    assert names_in(host, FOLDER) == []


def test_a_disk_without_room_is_found_before_anything_is_sent(
    host: SimulatedHost, runner: FaultyRunner, iso: Path
) -> None:
    host.files.available_bytes = SIZE - 1
    with pytest.raises(MachineError, match=r"has 2,109,496 bytes free .*; 2,109,497 are needed"):
        do_upload(runner, iso)
    assert runner.count("write-block") == 0


def test_a_disk_that_gets_full_is_named_and_the_part_removed(
    host: SimulatedHost, runner: FaultyRunner, iso: Path
) -> None:
    def fill(script: str, asked: Mapping[str, JSON]) -> None:
        if script == "write-block" and asked["Offset"]:
            host.files.available_bytes = 0
            raise ScriptError(
                runner.host, script, "IOException", "NotSpecified", "Es ist kein Platz."
            )

    runner.before = fill
    with pytest.raises(MachineError, match="has 0 bytes free"):
        do_upload(runner, iso)
    assert names_in(host, FOLDER) == []


def test_another_failure_of_a_script_leaves_the_part_to_be_resumed(
    host: SimulatedHost, runner: FaultyRunner, iso: Path
) -> None:
    def fail(script: str, asked: Mapping[str, JSON]) -> None:
        if script == "write-block" and asked["Offset"]:
            raise ScriptError(runner.host, script, "IOException", "NotSpecified", "CRC error")

    runner.before = fail
    with pytest.raises(ScriptError, match="CRC error"):
        do_upload(runner, iso)
    assert names_in(host, FOLDER) == [name_of(iso) + ".part"]


# Before the start, and after it all.


def test_the_isos_are_compared_again_before_the_start(
    host: SimulatedHost, runner: FaultyRunner, iso: Path
) -> None:
    uploaded = do_upload(runner, iso)
    verify_again(runner, uploaded)
    host.files.put(uploaded[0].path, bytes(SIZE))
    with pytest.raises(HostError, match="is not what was uploaded"):
        verify_again(runner, uploaded)
    host.files.locate(uploaded[0].path).unlink()
    with pytest.raises(HostError, match="is gone since"):
        verify_again(runner, uploaded)


def test_complete_isos_are_removed_and_the_empty_folder(
    host: SimulatedHost, runner: FaultyRunner, iso: Path
) -> None:
    do_upload(runner, iso)
    remove_uploads(runner, None, VM_ID)
    assert host.files.find(FOLDER) is None
    remove_uploads(runner, None, VM_ID)


def test_what_is_not_complete_or_not_ours_stays(
    host: SimulatedHost, runner: FaultyRunner, iso: Path
) -> None:
    (uploaded,) = do_upload(runner, iso)
    host.files.put(f"{FOLDER}\\bootgraft-0123456789abcdef.iso.part", b"a part")
    host.files.put(f"{FOLDER}\\notes.txt", b"somebody's")
    remove_uploads(runner, None, VM_ID)
    assert names_in(host, FOLDER) == ["bootgraft-0123456789abcdef.iso.part", "notes.txt"]
    remove_uploads(runner, None, VM_ID, parts=True)
    assert names_in(host, FOLDER) == ["notes.txt"]
    assert host.files.find_file(uploaded.path) is None
