"""`bootgraft-agent tree` as a command: what it refuses, with which words and exit status."""

import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bootgraft_agent.tree import settle
from vm.debian_guest import read_hypervisor
from vm.payload import SHIM, BadPayload, bad_files, good_files, write_files
from vm.trees import SampleTree, build_tree

TIMEOUT = 60.0  # seconds; a command takes less than one
KERNEL = "vmlinuz-2.6.18-164.el5xen"
INITRD = "initrd-2.6.18-164.el5xen.img"
MIB = 1 << 20

# Linux, fs/ext4/ext4.h: the file system takes no access any more, as after a fatal error.
EXT4_IOC_SHUTDOWN = 0x8004587D
EXT4_GOING_FLAGS_NOLOGFLUSH = 2

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")

Edit = Callable[[SampleTree], None]
Result = subprocess.CompletedProcess[str]


@pytest.fixture
def tree(tmp_path: Path) -> SampleTree:
    return build_tree("rhel5", tmp_path / "guest")


@pytest.fixture(scope="module")
def payload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_payload(tmp_path_factory.mktemp("payload"), good_files())


def make_payload(folder: Path, files: Mapping[str, bytes]) -> Path:
    write_files(folder, files)
    return folder


def run_agent(*arguments: str | Path) -> Result:
    return subprocess.run(
        [sys.executable, "-m", "bootgraft_agent", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def run_tree(tree: SampleTree, payload: Path | None, *options: str | Path) -> Result:
    return run_agent(*tree_arguments(tree, payload), *options)


def tree_arguments(tree: SampleTree, payload: Path | None) -> list[str | Path]:
    arguments: list[str | Path] = ["tree", "--root", tree.root]
    if tree.boot is not None:
        arguments += ["--boot", tree.boot]
    if payload is not None:
        arguments += ["--payload", payload]
    return arguments


def snapshot(folder: Path) -> dict[str, tuple[int, ...]]:
    """Everything that a write to any file or directory moves."""
    statuses = {str(path): path.lstat() for path in [folder, *folder.rglob("*")]}
    return {
        path: (each.st_ino, each.st_mode, each.st_nlink, each.st_size, each.st_ctime_ns)
        for path, each in statuses.items()
    }


def assert_refused(result: Result, message: str, status: int = 1) -> None:
    """The message is there, once, on stderr; stdout stays empty, and nobody sees a traceback."""
    assert result.returncode == status, result.stdout + result.stderr
    assert result.stderr.count(message) == 1, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


# The exit statuses.


def test_grafted_and_already_grafted_are_status_0(tree: SampleTree, payload: Path) -> None:
    first = run_tree(tree, payload)
    assert first.returncode == 0, first.stderr
    assert "verified: " in first.stdout
    grafted = snapshot(tree.root)
    second = run_tree(tree, payload)
    assert second.returncode == 0, second.stderr
    assert "The graft is there already" in second.stdout
    assert snapshot(tree.root) == grafted


def test_a_rollback_without_a_graft_is_status_0_and_changes_nothing(
    tree: SampleTree, payload: Path
) -> None:
    before = snapshot(tree.root)
    result = run_tree(tree, None, "--rollback")
    assert result.returncode == 0, result.stderr
    assert "there is no graft to roll back" in result.stdout
    assert snapshot(tree.root) == before


def test_a_rollback_over_somebody_elses_change_is_refused(tree: SampleTree, payload: Path) -> None:
    run_tree(tree, payload)
    with tree.menu.open("a") as menu:
        menu.write("# edited by hand\n")
    edited = snapshot(tree.root)
    assert_refused(run_tree(tree, None, "--rollback"), "grub.conf has been changed since run")
    assert snapshot(tree.root) == edited


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--grub-root", "hd0"], "--grub-root takes a partition as (hd0,0), not hd0"),
        (["--grub-root", "(hd0)"], "--grub-root takes a partition as (hd0,0), not (hd0)"),
        (["--kernel", ""], "--kernel is empty or unprintable"),
        (["--shim-args", "a\nb"], "--shim-args is empty or unprintable"),
        (["--guest-disk", "xvda"], "--guest-disk: invalid choice: 'xvda'"),
        (["--dry-run", "--rollback"], "--rollback: not allowed with argument --dry-run"),
        (["--frob"], "unrecognized arguments: --frob"),
        (["--run", "some"], "--run goes with --rollback"),
    ],
)
def test_an_invalid_request_is_status_2(
    options: list[str], message: str, tree: SampleTree, payload: Path
) -> None:
    before = snapshot(tree.root)
    assert_refused(run_tree(tree, payload, *options), message, status=2)
    assert snapshot(tree.root) == before


@pytest.mark.parametrize("option", ["--root", "--boot", "--payload"])
def test_a_directory_that_is_not_there_is_status_2(
    option: str, tree: SampleTree, payload: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "missing"
    arguments = tree_arguments(tree, payload)
    arguments[arguments.index(option) + 1] = missing
    assert_refused(run_agent(*arguments), f"{option} {missing} is not a directory", status=2)


def test_a_graft_without_payload_is_status_2(tree: SampleTree) -> None:
    assert_refused(run_tree(tree, None), "--payload", status=2)


def test_json_is_one_document_whatever_happens(
    tree: SampleTree, payload: Path, tmp_path: Path
) -> None:
    def run_json(payload: Path | None, *options: str) -> tuple[int, Mapping[str, object]]:
        result = run_tree(tree, payload, "--json", *options)
        return result.returncode, json.loads(result.stdout)

    empty = make_payload(tmp_path / "empty", {"readme.txt": b""})
    status, refused = run_json(empty)
    assert (status, refused["ok"], refused["exit_status"]) == (1, False, 1)
    assert "has no directory named shim" in str(refused["error"])
    status, invalid = run_json(None)
    assert (status, invalid["ok"], invalid["exit_status"]) == (2, False, 2)
    status, planned = run_json(payload, "--dry-run")
    assert (status, planned["ok"], planned["already_grafted"]) == (0, True, False)
    status, grafted = run_json(payload)
    assert (status, grafted["ok"], grafted["changed"]) == (0, True, True)
    assert grafted["plan_sha256"] == planned["plan_sha256"]
    status, again = run_json(payload)
    assert (status, again["already_grafted"], again["changed"]) == (0, True, False)
    status, restored = run_json(None, "--rollback")
    assert (status, restored["ok"], restored["run_id"]) == (0, True, grafted["run_id"])


# Menus.


def replace_menu(tree: SampleTree) -> Path:
    tree.menu.unlink()
    return tree.menu


def empty_menu(tree: SampleTree) -> None:
    tree.menu.write_bytes(b"")


def menu_without_entries(tree: SampleTree) -> None:
    tree.menu.write_bytes(b"default 0\ntimeout 5\n# title none\n")


def no_menu(tree: SampleTree) -> None:
    tree.menu.unlink()
    (tree.boot_folder / "grub/menu.lst").unlink()


def dangling_menu(tree: SampleTree) -> None:
    replace_menu(tree).symlink_to("grub.conf.rpmsave")


def looping_menu(tree: SampleTree) -> None:
    replace_menu(tree).symlink_to("menu.lst")


def menu_linked_to_the_outside(tree: SampleTree) -> None:
    outside = tree.root.parent / "outside.conf"
    tree.menu.rename(outside)
    tree.menu.symlink_to(outside)


def menu_linked_upwards(tree: SampleTree) -> None:
    tree.menu.rename(tree.root.parent / "outside.conf")
    tree.menu.symlink_to("../../../outside.conf")


def fifo_menu(tree: SampleTree) -> None:
    os.mkfifo(replace_menu(tree))


def directory_menu(tree: SampleTree) -> None:
    replace_menu(tree).mkdir()


def huge_menu(tree: SampleTree) -> None:
    tree.menu.write_bytes(tree.menu.read_bytes().ljust(10 * MIB, b"#"))


def two_menus_without_stage2(tree: SampleTree) -> None:
    (tree.boot_folder / "grub/stage2").unlink()
    two_menus(tree)


def two_menus_of_which_stage2_names_neither(tree: SampleTree) -> None:
    stage2 = tree.boot_folder / "grub/stage2"
    content = stage2.read_bytes()
    assert content.count(b"/grub/grub.conf\0") == 1
    stage2.write_bytes(content.replace(b"/grub/grub.conf\0", b"/grub/else.conf\0"))
    two_menus(tree)


def two_menus(tree: SampleTree) -> None:
    link = tree.boot_folder / "grub/menu.lst"
    link.unlink()
    link.write_bytes(tree.menu.read_bytes() + b"# another one\n")


def no_grub(tree: SampleTree) -> None:
    (tree.boot_folder / "grub").rename(tree.boot_folder / "gruub")


def grub_folder_linked_to_the_outside(tree: SampleTree) -> None:
    outside = tree.root.parent / "outside"
    (tree.boot_folder / "grub").rename(outside)
    (tree.boot_folder / "grub").symlink_to(outside)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (empty_menu, "/grub/grub.conf has no entry that GRUB would show"),
        (menu_without_entries, "/grub/grub.conf has no entry that GRUB would show"),
        (no_menu, "/grub holds neither menu.lst nor grub.conf"),
        (dangling_menu, "cannot read the menu /grub/"),
        (looping_menu, "cannot read the menu /grub/"),
        (menu_linked_to_the_outside, "it leads to nothing within this file system"),
        (menu_linked_upwards, "it leads to nothing within this file system"),
        (fifo_menu, "/grub/grub.conf is a FIFO, not a regular file"),
        (directory_menu, "/grub/grub.conf is a directory, not a regular file"),
        (huge_menu, "/grub/grub.conf is 10485760 bytes long; at most"),
        (two_menus_without_stage2, "/grub/menu.lst and /grub/grub.conf are two different files"),
        (
            two_menus_of_which_stage2_names_neither,
            "/grub/menu.lst and /grub/grub.conf are two different files",
        ),
        (no_grub, "no GRUB legacy files in /grub"),
        (grub_folder_linked_to_the_outside, "no GRUB legacy files in /grub"),
    ],
)
def test_a_menu_that_cannot_be_edited_is_refused(
    edit: Edit, message: str, tree: SampleTree, payload: Path
) -> None:
    edit(tree)
    before = snapshot(tree.root.parent)
    assert_refused(run_tree(tree, payload), message)
    assert snapshot(tree.root.parent) == before


def test_a_file_of_the_root_that_is_linked_to_the_outside_is_left_alone(
    tree: SampleTree, payload: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside-fstab"
    (tree.root / "etc/fstab").rename(outside)
    (tree.root / "etc/fstab").symlink_to(outside)
    before = snapshot(outside)
    result = run_tree(tree, payload)
    assert result.returncode == 0, result.stderr
    assert "fstab" not in result.stdout
    assert snapshot(outside) == before


# Kernels.


def no_kernel_xen(tree: SampleTree) -> None:
    (tree.boot_folder / KERNEL).unlink()


def truncated_kernel(tree: SampleTree) -> None:
    kernel = tree.boot_folder / KERNEL
    kernel.write_bytes(kernel.read_bytes()[: kernel.stat().st_size // 2])


def entry_without_its_initrd(tree: SampleTree) -> None:
    (tree.boot_folder / INITRD).unlink()


def no_initrd_at_all(tree: SampleTree) -> None:
    entry_without_its_initrd(tree)
    lines = tree.menu.read_bytes().splitlines(keepends=True)
    tree.menu.write_bytes(b"".join(line for line in lines if INITRD.encode() not in line))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (no_kernel_xen, "no Xen kernel with an initrd of its own was found; found: /vmlinuz-"),
        (truncated_kernel, f"/{KERNEL} (its compressed data is cut off)"),
        (entry_without_its_initrd, f"with the initrd /{INITRD}, which is not there"),
        (no_initrd_at_all, f"the kernel /{KERNEL} has no initrd of its own version beside it"),
    ],
)
def test_a_kernel_that_cannot_be_grafted_is_refused(
    edit: Edit, message: str, tree: SampleTree, payload: Path
) -> None:
    edit(tree)
    before = snapshot(tree.root)
    assert_refused(run_tree(tree, payload), message)
    assert snapshot(tree.root) == before


def test_a_kernel_that_is_not_there_is_refused_with_those_that_are(
    tree: SampleTree, payload: Path
) -> None:
    result = run_tree(tree, payload, "--kernel", "vmlinuz-3")
    assert_refused(result, f"no kernel is named vmlinuz-3; found: /{KERNEL[:-3]}")


# Payloads.


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (BadPayload.NO_SHIM_FOLDER, "has no directory named shim"),
        (BadPayload.EMPTY_SHIM_FOLDER, "holds no file, so there is no shim to copy"),
        (BadPayload.EMPTY_SHIM, "xen-64.gz (it is empty)"),
        (BadPayload.TRUNCATED_SHIM, "xen-64.gz (its compressed data is cut off)"),
        (BadPayload.OTHER_BITNESS, "is a 64-bit one, and not exactly one shim says"),
        (BadPayload.TWO_SHIMS, "name one with --shim; found: first.gz"),
    ],
)
def test_a_payload_without_the_right_shim_is_refused(
    kind: BadPayload, message: str, tree: SampleTree, tmp_path: Path
) -> None:
    before = snapshot(tree.root)
    assert_refused(run_tree(tree, make_payload(tmp_path / "payload", bad_files(kind))), message)
    assert snapshot(tree.root) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"shim/{KERNEL}", f"shim/{KERNEL} of the payload would replace the guest's own"),
        (f"shim/{INITRD}", f"shim/{INITRD} of the payload would replace the guest's own"),
        ("shim/grub", "shim/grub of the payload cannot be copied"),
        ("shim/bootgraft", "shim/bootgraft of the payload has a name that bootgraft needs"),
        ("shim/.bootgraft-1", "shim/.bootgraft-1 of the payload has a name that bootgraft needs"),
        ("Shim/xen-64.gz", "has several shim directories"),
    ],
)
def test_a_payload_with_a_file_in_the_way_is_refused(
    name: str, message: str, tree: SampleTree, tmp_path: Path
) -> None:
    payload = make_payload(tmp_path / "payload", {**good_files(), name: b"something else"})
    before = snapshot(tree.root)
    assert_refused(run_tree(tree, payload), message)
    assert snapshot(tree.root) == before


def test_one_of_two_shims_can_be_named(tree: SampleTree, tmp_path: Path) -> None:
    payload = make_payload(tmp_path / "payload", bad_files(BadPayload.TWO_SHIMS))
    result = run_tree(tree, payload, "--shim", "second.gz")
    assert result.returncode == 0, result.stderr
    assert b"\tkernel /second.gz\n" in tree.menu.read_bytes()


def test_links_and_fifos_of_the_payload_are_left_out_with_a_warning(
    tree: SampleTree, tmp_path: Path
) -> None:
    payload = make_payload(tmp_path / "payload", good_files())
    os.mkfifo(payload / "shim/pipe")
    (payload / "shim/passwords").symlink_to("/etc/shadow")
    result = run_tree(tree, payload)
    assert result.returncode == 0, result.stderr
    for name in ("pipe", "passwords"):
        assert f"{name} in the shim directory is no regular file; left out" in result.stdout
        assert not (tree.boot_folder / name).exists()


# Real file systems, mounted.


@contextmanager
def mounted_boot(tree: SampleTree, folder: Path, size: int, *options: str) -> Iterator[SampleTree]:
    """Give the tree with its /boot on an ext4 of `size` bytes."""
    assert tree.boot is not None
    image, mount_point = folder / "boot.img", folder / "mounted-boot"
    mount_point.mkdir()
    with image.open("wb") as stream:
        stream.truncate(size)
    subprocess.run(
        ["mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0", "-d", tree.boot, image],
        check=True,
    )
    mount_options = ",".join(("loop", *options))
    subprocess.run(["mount", "-o", mount_options, image, mount_point], check=True)
    try:
        yield SampleTree(tree.name, tree.shape, tree.root, mount_point)
    finally:
        subprocess.run(["umount", mount_point], check=True)


@needs_root
def test_a_boot_partition_that_is_mounted_read_only_is_refused(
    tree: SampleTree, payload: Path, tmp_path: Path
) -> None:
    before = snapshot(tree.root)
    with mounted_boot(tree, tmp_path, 64 * MIB, "ro") as mounted:
        assert_refused(run_tree(mounted, payload), f"{mounted.boot}: mounted read-only")
    assert snapshot(tree.root) == before


@needs_root
def test_a_boot_partition_without_room_is_refused(
    tree: SampleTree, payload: Path, tmp_path: Path
) -> None:
    with mounted_boot(tree, tmp_path, 64 * MIB) as mounted:
        fill(mounted.boot_folder, leave=MIB)
        before = snapshot(mounted.boot_folder)
        assert_refused(run_tree(mounted, payload), "KiB free, the graft needs")
        assert snapshot(mounted.boot_folder) == before


@needs_root
def test_a_boot_partition_without_inodes_is_refused(
    tree: SampleTree, payload: Path, tmp_path: Path
) -> None:
    with mounted_boot(tree, tmp_path, 64 * MIB) as mounted:
        (mounted.boot_folder / "spool").mkdir()
        for number in range(os.statvfs(mounted.boot_folder).f_favail - 2):
            (mounted.boot_folder / f"spool/{number}").touch()
        before = snapshot(mounted.boot_folder)
        assert_refused(run_tree(mounted, payload), "has 2 inodes free, the graft needs")
        assert snapshot(mounted.boot_folder) == before


@needs_root
def test_a_boot_partition_that_fills_up_meanwhile_gets_everything_back(
    tree: SampleTree, tmp_path: Path
) -> None:
    payload = make_payload(tmp_path / "payload", {SHIM: read_hypervisor(), "shim/big": big_file()})
    with mounted_boot(tree, tmp_path, 128 * MIB) as mounted:
        before = contents(mounted.boot_folder)
        with interrupted_graft(mounted, payload) as agent:
            fill(mounted.boot_folder, leave=MIB)
        stdout, stderr = agent.communicate(timeout=TIMEOUT)
        (mounted.boot_folder / "filler").unlink()
        assert agent.returncode == 1, stdout + stderr
        assert "the graft failed and was taken back whole: No space left on device" in stderr
        assert contents(mounted.boot_folder) == before


@needs_root
def test_a_file_system_that_fails_for_good_leaves_changes_and_says_which(
    tree: SampleTree, tmp_path: Path
) -> None:
    payload = make_payload(tmp_path / "payload", {SHIM: read_hypervisor(), "shim/big": big_file()})
    root = snapshot(tree.root / "etc")
    with mounted_boot(tree, tmp_path, 128 * MIB) as mounted:
        menu = mounted.menu.read_bytes()
        with interrupted_graft(mounted, payload) as agent:
            shut_down(mounted.boot_folder)
        stdout, stderr = agent.communicate(timeout=TIMEOUT)
        assert agent.returncode == 3, stdout + stderr
        assert "and not everything could be taken back" in stderr
        assert "Repair the file system, then roll" in stderr
    assert snapshot(tree.root / "etc") == root
    # Mounted anew, as after a repair: the old menu is there, and the rollback does its work.
    with remounted(mounted, tmp_path):
        assert mounted.menu.read_bytes() == menu
        result = run_tree(mounted, None, "--rollback")
        assert result.returncode == 0, result.stderr
        assert mounted.menu.read_bytes() == menu
        assert not (mounted.boot_folder / "bootgraft").exists()
        assert run_tree(mounted, payload).returncode == 0


def big_file() -> bytes:
    """Give a file that takes a while to copy, and no time to look at."""
    return bytes(48 * MIB)


@contextmanager
def interrupted_graft(tree: SampleTree, payload: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a graft and stop it, for as long as the context lasts, while it copies the payload."""
    agent = subprocess.Popen(
        [sys.executable, "-m", "bootgraft_agent", *tree_arguments(tree, payload)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + TIMEOUT
    while not list(tree.boot_folder.glob("bootgraft/*/manifest.json")):
        assert agent.poll() is None, agent.communicate()
        assert time.monotonic() < deadline, "the graft did not begin to write"
        time.sleep(0.001)
    agent.send_signal(signal.SIGSTOP)
    try:
        assert not (tree.boot_folder / "big").exists(), "the payload is copied already"
        yield agent
    finally:
        agent.send_signal(signal.SIGCONT)


def fill(folder: Path, leave: int) -> None:
    """Write a file that leaves about so many bytes free on a file system."""
    room = os.statvfs(folder)
    with (folder / "filler").open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, room.f_bavail * room.f_frsize - leave)


def shut_down(folder: Path) -> None:
    """Let an ext4 fail every access from now on."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", EXT4_GOING_FLAGS_NOLOGFLUSH))
    finally:
        os.close(fd)


@contextmanager
def remounted(tree: SampleTree, folder: Path) -> Iterator[None]:
    assert tree.boot is not None
    subprocess.run(["mount", "-o", "loop", folder / "boot.img", tree.boot], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", tree.boot], check=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@needs_root
def test_a_boot_partition_that_is_mounted_but_not_named_is_asked_for(
    tree: SampleTree, payload: Path
) -> None:
    """GRUB's paths on it are others than those below the root directory."""
    assert tree.boot is not None
    place = tree.root / "boot"
    content = tree.boot.rename(tree.root.parent / "content-of-boot")
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    try:
        subprocess.run(["cp", "-a", f"{content}/.", place], check=True)
        result = run_agent("tree", "--root", tree.root, "--payload", payload)
        assert result.returncode == 1
        assert "name the mounted boot partition with --boot" in result.stderr
        assert not (place / "bootgraft").exists()
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_run_that_is_killed_in_that_instant_leaves_no_file_system_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What writes there next would wait for ever. The mount point is one that is everywhere."""
    calls = iter(("freeze", "thaw"))
    run = os.fork()
    if run == 0:

        def note(_fd: int, _request: int, _argument: int) -> None:
            call = next(calls)
            if call == "freeze":
                os.kill(killed, signal.SIGKILL)
            (tmp_path / call).touch()

        killed = os.getpid()
        monkeypatch.setattr("fcntl.ioctl", note)
        with suppress(BaseException):
            settle(Path("/proc"))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(run, 0)[1]) == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while not (tmp_path / "thaw").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (tmp_path / "thaw").exists()
