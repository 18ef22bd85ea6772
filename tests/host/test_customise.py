"""`bootgraft iso customise`: copies of an ISO that has the live one's boot configurations."""

import shutil
from pathlib import Path

import pytest

from bootgraft_agent.errors import InvalidRequestError, RefusedError
from bootgraft_host.customise import GRUB, ISOLINUX, customise_iso, edit_grub, edit_isolinux
from host.shell import Shell
from vm.commands import run

BOOTLOADERS = Path(__file__).resolve().parents[2] / "image-build/config/bootloaders"
ISOLINUX_CFG = (BOOTLOADERS / "isolinux/isolinux.cfg").read_text("utf-8")
GRUB_CFG = (BOOTLOADERS / "efi/grub.cfg").read_text("utf-8")


def changed_lines(before: str, after: str) -> tuple[list[str], list[str]]:
    """Give the lines that went, and those that came."""
    old, new = before.splitlines(), after.splitlines()
    return [line for line in old if line not in new], [line for line in new if line not in old]


def test_without_a_change_every_byte_stays() -> None:
    assert edit_isolinux(ISOLINUX_CFG, None, []) == ISOLINUX_CFG
    assert edit_grub(GRUB_CFG, None, []) == GRUB_CFG
    assert edit_isolinux(ISOLINUX_CFG, 0, []) == ISOLINUX_CFG  # as it is built
    assert edit_grub(GRUB_CFG, 0, []) == GRUB_CFG


def test_parameters_go_to_the_live_system_s_entry_alone() -> None:
    words = ["bootgraft.shell", "loglevel=7"]
    went, came = changed_lines(ISOLINUX_CFG, edit_isolinux(ISOLINUX_CFG, None, words))
    assert (went, came) == (
        ["\tappend @APPEND_LIVE@"],
        ["\tappend @APPEND_LIVE@ bootgraft.shell loglevel=7"],
    )
    went, came = changed_lines(GRUB_CFG, edit_grub(GRUB_CFG, None, words))
    assert (went, came) == (
        ["\tlinux /boot/vmlinuz @APPEND_LIVE@"],
        ["\tlinux /boot/vmlinuz @APPEND_LIVE@ bootgraft.shell loglevel=7"],
    )


def test_a_menu_waits_and_is_taken_away_again() -> None:
    edited = edit_isolinux(ISOLINUX_CFG, 3, [])
    _, came = changed_lines(ISOLINUX_CFG, edited)
    assert came[1:] == ["prompt 1", "timeout 30"]  # in tenths of a second
    assert came[0].startswith("say bootgraft: Enter starts the live system")
    assert edit_isolinux(edited, 0, []) == ISOLINUX_CFG
    assert changed_lines(GRUB_CFG, edit_grub(GRUB_CFG, 3, [])) == (
        ["set timeout=0"],
        ["set timeout=3"],
    )


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
    argv = ("iso", "customise", str(source), str(target), "--menu-time", "2")
    output = shell(*argv, "--kernel-parameter", "bootgraft.shell", state=False)
    assert (output.status, output.err) == (0, "")
    tree = tmp_path / "copied"
    run(["xorriso", "-osirrox", "on", "-indev", target, "-extract", "/", tree])
    assert (tree / ISOLINUX[1:]).read_text() == edit_isolinux(ISOLINUX_CFG, 2, ["bootgraft.shell"])
    assert (tree / GRUB[1:]).read_text() == edit_grub(GRUB_CFG, 2, ["bootgraft.shell"])
    assert (tree / "other").read_text() == "stays"
    run(["chmod", "-R", "u+w", tree])


def test_wrong_requests_are_refused_and_leave_nothing(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.iso"
    with pytest.raises(InvalidRequestError, match="not one plain word"):
        customise_iso(source, target, None, ["two words"])
    with pytest.raises(InvalidRequestError, match="is not there"):
        customise_iso(tmp_path / "none.iso", target, 2, [])
    with pytest.raises(InvalidRequestError, match="no folder"):
        customise_iso(source, tmp_path / "nowhere/copy.iso", 2, [])
    with pytest.raises(InvalidRequestError, match="is there already"):
        customise_iso(source, source, 2, [])
    assert not target.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.iso", "tree"]


def test_another_iso_is_refused_by_name(source: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "tree/isolinux")
    other = tmp_path / "other.iso"
    run(["xorriso", "-as", "mkisofs", "-quiet", "-o", other, tmp_path / "tree"])
    with pytest.raises(RefusedError, match=r"other\.iso is no live ISO: it has no /isolinux/"):
        customise_iso(other, tmp_path / "copy.iso", 2, [])


def test_a_configuration_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="0 times"):
        edit_isolinux("default live\n", 2, [])
    with pytest.raises(ValueError, match="0 times"):
        edit_grub("set default=live\n", None, ["quiet"])


def test_without_anything_to_change_the_options_are_named(shell: Shell, tmp_path: Path) -> None:
    output = shell("iso", "customise", "a.iso", str(tmp_path / "b.iso"), state=False)
    assert output.status == 2
    assert "--menu-time or --kernel-parameter" in output.err
