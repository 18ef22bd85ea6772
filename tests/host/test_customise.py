"""`bootgraft iso customise`: copies of an ISO that has the live one's boot configurations."""

import re
import shutil
import tempfile
from pathlib import Path

import pytest

from bootgraft_agent.errors import InvalidRequestError, RefusedError
from bootgraft_agent.parameters import MODES, Mode
from bootgraft_host.customise import (
    GRUB,
    ISOLINUX,
    BootChanges,
    customise_iso,
    edit_grub,
    edit_isolinux,
)
from bootgraft_host.recipes import choose_recipes
from host.shell import Shell
from vm.commands import run

BOOTLOADERS = Path(__file__).resolve().parents[2] / "image-build/config/bootloaders"
ISOLINUX_CFG = (BOOTLOADERS / "isolinux/isolinux.cfg").read_text("utf-8")
MODES_TXT = (BOOTLOADERS / "isolinux/modes.txt").read_text("ascii")
GRUB_CFG = (BOOTLOADERS / "efi/grub.cfg").read_text("utf-8")

HOW = "To choose, type a number, then press Enter."


def changed_lines(before: str, after: str) -> tuple[list[str], list[str]]:
    """Give the lines that went, and those that came."""
    old, new = before.splitlines(), after.splitlines()
    return [line for line in old if line not in new], [line for line in new if line not in old]


def test_without_a_change_every_byte_stays() -> None:
    assert edit_isolinux(ISOLINUX_CFG, BootChanges()) == ISOLINUX_CFG
    assert edit_grub(GRUB_CFG, BootChanges()) == GRUB_CFG
    as_built = BootChanges(mode="host")
    assert edit_isolinux(ISOLINUX_CFG, as_built) == ISOLINUX_CFG
    assert edit_grub(GRUB_CFG, as_built) == GRUB_CFG


def test_parameters_go_to_every_entry_that_starts_the_agent() -> None:
    changes = BootChanges(parameters=["bootgraft.shell", "loglevel=7"])
    for before, after in (
        (ISOLINUX_CFG, edit_isolinux(ISOLINUX_CFG, changes)),
        (GRUB_CFG, edit_grub(GRUB_CFG, changes)),
    ):
        went, came = changed_lines(before, after)
        assert [line.rpartition("=")[2] for line in went] == [
            *("host", "unattended", "manual", "manual-serial"),
        ]
        assert came == [f"{line} bootgraft.shell loglevel=7" for line in went]


def test_a_menu_waits_longer_and_is_taken_away() -> None:
    edited = edit_isolinux(ISOLINUX_CFG, BootChanges(3))
    assert changed_lines(ISOLINUX_CFG, edited) == (
        [f"say 1 starts by itself in 2 s. {HOW}", "timeout 20"],
        [f"say 1 starts by itself in 3 s. {HOW}", "timeout 30"],
    )
    without = edit_isolinux(edited, BootChanges(0))
    assert changed_lines(edited, without) == (
        ["display modes.txt", f"say 1 starts by itself in 3 s. {HOW}", "prompt 1", "timeout 30"],
        ["#display modes.txt", f"#say 1 starts by itself in 0 s. {HOW}", "prompt 0", "timeout 0"],
    )
    assert edit_isolinux(without, BootChanges(3)) == edited
    assert changed_lines(GRUB_CFG, edit_grub(GRUB_CFG, BootChanges(0))) == (
        ["set timeout=2"],
        ["set timeout=0"],
    )


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "host"])
def test_another_mode_starts_by_itself(mode: Mode) -> None:
    changes = BootChanges(mode=mode)
    number = MODES.index(mode) + 1
    assert changed_lines(ISOLINUX_CFG, edit_isolinux(ISOLINUX_CFG, changes)) == (
        [f"say 1 starts by itself in 2 s. {HOW}", "default 1"],
        [f"say {number} starts by itself in 2 s. {HOW}", f"default {number}"],
    )
    assert changed_lines(GRUB_CFG, edit_grub(GRUB_CFG, changes)) == (
        ["set default=live"],
        [f"set default={mode}"],
    )


def test_both_boot_loaders_have_an_entry_for_every_mode() -> None:
    for number, mode in enumerate(MODES, start=1):
        label = "live" if mode == "host" else mode
        assert re.search(rf"^  {number}  {mode.partition('-')[0].title()}", MODES_TXT, re.MULTILINE)
        assert re.search(
            rf"^label {number}\n(\t.*\n)*?\tappend @APPEND_LIVE@ bootgraft.mode={mode}$",
            ISOLINUX_CFG,
            re.MULTILINE,
        )
        assert re.search(
            rf"--id {label} \{{\n\tlinux /boot/vmlinuz @APPEND_LIVE@ bootgraft.mode={mode}$",
            GRUB_CFG,
            re.MULTILINE,
        )


def test_the_menus_as_they_are_built_wait_for_two_seconds_at_most() -> None:
    (tenths,) = re.findall(r"^timeout (\d+)$", ISOLINUX_CFG, re.MULTILINE)
    (seconds,) = re.findall(r"^set timeout=(\d+)$", GRUB_CFG, re.MULTILINE)
    assert 10 <= int(tenths) <= 20
    assert 1 <= int(seconds) <= 2


def test_the_prompt_with_all_that_is_above_it_has_room_on_the_screen() -> None:
    firmware_and_isolinux = 4
    said = re.findall(r"^say (.*)$", ISOLINUX_CFG, re.MULTILINE)
    lines = [*MODES_TXT.splitlines(), *said, "boot:"]
    assert len(lines) + firmware_and_isolinux <= 25
    assert max(map(len, lines)) < 80


def test_no_boot_loader_listens_on_the_serial_port() -> None:
    commands = [line.split() for line in (ISOLINUX_CFG + GRUB_CFG).splitlines()]
    words = {line[0].lower() for line in commands if line and not line[0].startswith("#")}
    assert not words & {"serial", "terminal_input", "terminal_output", "terminal"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An ISO with the two configurations, and a file more."""
    tree, iso = tmp_path / "tree", tmp_path / "source.iso"
    for path, content in ((ISOLINUX, ISOLINUX_CFG), (GRUB, GRUB_CFG), ("/other", "stays")):
        (tree / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        (tree / path[1:]).write_text(content)
    run(["xorriso", "-as", "mkisofs", "-quiet", "-rational-rock", "-V", "LIVE", "-o", iso, tree])
    return iso


def test_the_command_writes_a_changed_copy(source: Path, shell: Shell, tmp_path: Path) -> None:
    target = tmp_path / "copy.iso"
    (tmp_path / "payload/Shim").mkdir(parents=True)
    (tmp_path / "payload/Shim/xen-64.gz").write_bytes(b"the shim")
    output = shell(
        *("iso", "customise", str(source), str(target), "--menu-time", "5"),
        *("--mode", "unattended", "--option", "power-off-after=never"),
        *("--add-payload", str(tmp_path / "payload"), "--kernel-parameter", "bootgraft.shell"),
        state=False,
    )
    assert (output.status, output.err) == (0, "")
    tree = tmp_path / "copied"
    run(["xorriso", "-osirrox", "on", "-indev", target, "-extract", "/", tree])
    changes = BootChanges(5, "unattended", ["bootgraft.power-off-after=never", "bootgraft.shell"])
    assert (tree / ISOLINUX[1:]).read_text() == edit_isolinux(ISOLINUX_CFG, changes)
    assert (tree / GRUB[1:]).read_text() == edit_grub(GRUB_CFG, changes)
    assert (tree / "shim/xen-64.gz").read_bytes() == b"the shim"
    assert (tree / "other").read_text() == "stays"
    run(["chmod", "-R", "u+w", tree])


def test_isos_may_lie_in_memory_below_dev(source: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        copy = Path(shutil.copyfile(source, Path(folder, "live.iso")))
        customise_iso(copy, Path(folder, "copy.iso"), BootChanges(2))
        assert Path(folder, "copy.iso").is_file()


def test_wrong_requests_are_refused_and_leave_nothing(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.iso"
    with pytest.raises(InvalidRequestError, match="not one plain word"):
        customise_iso(source, target, BootChanges(parameters=["two words"]))
    with pytest.raises(InvalidRequestError, match=r"bootgraft\.kernl is unknown; known: "):
        customise_iso(source, target, BootChanges(parameters=["bootgraft.kernl=x"]))
    with pytest.raises(InvalidRequestError, match="should hold one directory shim"):
        customise_iso(source, target, BootChanges(), tmp_path)
    (tmp_path / "tree/SHIM").mkdir()
    with pytest.raises(InvalidRequestError, match="holds no file"):
        customise_iso(source, target, BootChanges(), tmp_path / "tree")
    with pytest.raises(InvalidRequestError, match="is not there"):
        customise_iso(tmp_path / "none.iso", target, BootChanges(2))
    with pytest.raises(InvalidRequestError, match="no folder"):
        customise_iso(source, tmp_path / "nowhere/copy.iso", BootChanges(2))
    with pytest.raises(InvalidRequestError, match="is there already"):
        customise_iso(source, source, BootChanges(2))
    assert not target.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.iso", "tree"]


def test_an_iso_with_a_payload_gets_no_second_one(source: Path, tmp_path: Path) -> None:
    (tmp_path / "tree/shim").mkdir()
    (tmp_path / "tree/shim/xen.gz").touch()
    first = tmp_path / "first.iso"
    customise_iso(source, first, BootChanges(), tmp_path / "tree")
    with pytest.raises(RefusedError, match=r"first\.iso holds a payload already"):
        customise_iso(first, tmp_path / "second.iso", BootChanges(), tmp_path / "tree")


def test_an_iso_that_holds_a_secret_is_its_user_s_alone(
    source: Path, shell: Shell, tmp_path: Path
) -> None:
    (tmp_path / "hash").write_text("$6$salt$" + "x" * 86 + "\n")
    secret, plain, listed = tmp_path / "secret.iso", tmp_path / "plain.iso", tmp_path / "listed.iso"
    words = ("iso", "customise", str(source))
    hashed = ("--recipe", "reset-root-password", "--set-file", f"hash={tmp_path / 'hash'}")
    assert shell(*words, str(secret), *hashed, state=False).status == 0
    assert shell(*words, str(plain), "--recipe", "serial-console", state=False).status == 0
    (tmp_path / "payload").mkdir()
    (tmp_path / "payload/recipes.toml").write_text(
        'version = 1\n[[recipe]]\nname = "cloud-init-seed"\n'
        'set = { hostname = "web", user-data = "#cloud-config\\n" }\n'
    )
    payload = ("--add-payload", str(tmp_path / "payload"))
    assert shell(*words, str(listed), *payload, state=False).status == 0
    modes = [oct(each.stat().st_mode & 0o77) for each in (secret, listed)]
    assert modes == ["0o0", "0o0"]
    assert plain.stat().st_mode & 0o44


def test_a_folder_s_list_of_recipes_is_not_passed_over(source: Path, tmp_path: Path) -> None:
    (tmp_path / "payload/shim").mkdir(parents=True)
    (tmp_path / "payload/shim/xen.gz").touch()
    (tmp_path / "payload/recipes.toml").touch()
    with pytest.raises(InvalidRequestError, match=r"recipes\.toml says which recipes go onto"):
        customise_iso(
            *(source, tmp_path / "copy.iso", BootChanges(), tmp_path / "payload"),
            choose_recipes(["serial-console"], ()),
        )


def test_another_iso_is_refused_by_name(source: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "tree/isolinux")
    other = tmp_path / "other.iso"
    run(["xorriso", "-as", "mkisofs", "-quiet", "-o", other, tmp_path / "tree"])
    with pytest.raises(RefusedError, match=r"other\.iso is no live ISO: it has no /isolinux/"):
        customise_iso(other, tmp_path / "copy.iso", BootChanges(2))


def test_a_configuration_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="0 times"):
        edit_isolinux("default live\n", BootChanges(2))
    with pytest.raises(ValueError, match="0 times"):
        edit_grub("set default=live\n", BootChanges(parameters=["quiet"]))


def test_without_anything_to_change_the_options_are_named(shell: Shell, tmp_path: Path) -> None:
    output = shell("iso", "customise", "a.iso", str(tmp_path / "b.iso"), state=False)
    assert output.status == 2
    assert "give --mode, --option, --add-payload, --recipe, --menu-time or" in output.err
