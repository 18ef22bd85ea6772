"""`bootgraft iso customise`: a copy of the live ISO that boots another way, without a new build.

The boot loaders' configurations are edited, and nothing else: kernel, initramfs, Secure Boot's
chain and the ways to boot stay.

Sources: syslinux's doc/syslinux.txt (PROMPT, TIMEOUT, SAY); GRUB's manual (timeout, linux).
"""

import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from bootgraft_agent.errors import BootgraftError, InvalidRequestError, RefusedError

ISOLINUX = "/isolinux/isolinux.cfg"
GRUB = "/boot/grub/grub.cfg"
# Shown above isolinux's own prompt.
PROMPT = "bootgraft: Enter starts the live system; rescue, then Enter, a shell instead"
LONGEST_MENU = 300  # seconds
# Words of the kernel's command line that mean nothing to either boot loader.
_WORD = re.compile(r"[A-Za-z0-9_.,:=/@%+-]+")


@click.group()
def iso() -> None:
    """Work with the live ISO itself."""


@iso.command()
@click.argument("source", metavar="IN", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--menu-time",
    type=click.IntRange(0, LONGEST_MENU),
    help="Seconds that the boot menu waits for a key; 0, as the ISO is built: there is none.",
)
@click.option(
    "--kernel-parameter",
    "parameters",
    multiple=True,
    metavar="WORD",
    help="Add to the command line of the live system's kernel, as in bootgraft.shell. May be given"
    " again.",
)
def customise(source: Path, target: Path, menu_time: int | None, parameters: Sequence[str]) -> int:
    """Write OUT, a copy of the live ISO IN that boots as the options say.

    With a menu, a byte that comes in on COM1 may hold up a machine whose UEFI takes the serial port
    for a keyboard: without one, as the ISO is built, no boot loader looks.
    """
    if menu_time is None and not parameters:
        raise click.UsageError("nothing to change: give --menu-time or --kernel-parameter")
    customise_iso(source, target, menu_time, parameters)
    click.echo(f"{target}: written; give it to `bootgraft run` with --iso")
    return 0


def customise_iso(
    source: Path, target: Path, menu_time: int | None, parameters: Sequence[str]
) -> None:
    """Write a changed copy of the live ISO, whole or not at all.

    Raises InvalidRequestError for a wrong word or name, RefusedError where `source` is no live ISO,
    BootgraftError where the copy cannot be made.
    """
    for word in parameters:
        if not _WORD.fullmatch(word):
            raise InvalidRequestError(
                f"{word!r} is not one plain word of a kernel's command line: letters, digits and"
                " _ . , : = / @ % + - may be in it"
            )
    if not source.is_file():
        raise InvalidRequestError(f"{source} is not there, or is no file")
    if not target.parent.is_dir():
        raise InvalidRequestError(f"there is no folder {target.parent} to write {target.name} to")
    if target.exists():
        raise InvalidRequestError(f"{target} is there already: name another file, or remove it")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".bootgraft-") as folder:
        changes = []
        edits = {ISOLINUX: edit_isolinux, GRUB: edit_grub}
        for number, (path, edit) in enumerate(edits.items()):
            file = Path(folder, f"config-{number}")
            _extract(source, path, file)
            file.write_text(_edited(edit, source, path, file, menu_time, parameters), "utf-8")
            changes += ["-map", str(file), path]
        copy = Path(folder, "copy.iso")
        _xorriso("-indev", source, "-outdev", copy, "-boot_image", "any", "replay", *changes)
        copy.rename(target)


def edit_isolinux(text: str, menu_time: int | None, parameters: Sequence[str]) -> str:
    """Edit isolinux.cfg. Raises ValueError, as all of these do, for one that is not ours."""
    if menu_time is not None:
        text = re.sub(r"^say .*\n", "", text, flags=re.MULTILINE)
        shown = f"say {PROMPT}\nprompt 1" if menu_time else "prompt 0"
        text = _replace(text, r"^prompt \d+$", shown)
        text = _replace(text, r"^timeout \d+$", f"timeout {menu_time * 10}")
    return _append(text, r"^label live$.*?^\s+append [^\n]*$", parameters)


def edit_grub(text: str, menu_time: int | None, parameters: Sequence[str]) -> str:
    """Edit grub.cfg."""
    if menu_time is not None:
        text = _replace(text, r"^set timeout=\d+$", f"set timeout={menu_time}")
    return _append(text, r"--id live \{$.*?^\s+linux [^\n]*$", parameters)


def _append(text: str, place: str, parameters: Sequence[str]) -> str:
    """Add words to the end of what is found."""
    return _replace(text, place, lambda found: " ".join([found[0], *parameters]))


def _replace(text: str, pattern: str, by: str | Callable[[re.Match[str]], str]) -> str:
    replace = by if callable(by) else lambda _: by
    text, count = re.subn(pattern, replace, text, flags=re.MULTILINE | re.DOTALL)
    if count != 1:
        raise ValueError(f"{count} times {pattern!r}")
    return text


def _edited(
    edit: Callable[[str, int | None, Sequence[str]], str],
    source: Path,
    path: str,
    file: Path,
    menu_time: int | None,
    parameters: Sequence[str],
) -> str:
    try:
        return edit(file.read_text("utf-8"), menu_time, parameters)
    except ValueError as error:
        raise RefusedError(
            f"{source} is no live ISO of this version of bootgraft: its {path} holds {error}"
        ) from error


def _extract(source: Path, path: str, file: Path) -> None:
    try:
        _xorriso("-osirrox", "on", "-indev", source, "-extract", path, file)
    except RefusedError as error:
        raise RefusedError(f"{source} is no live ISO: it has no {path} ({error})") from error
    file.chmod(0o600)  # the ISO's own files cannot be written


def _xorriso(*arguments: str | Path) -> None:
    argv = ["xorriso", "-abort_on", "FAILURE", *map(str, arguments), "-end"]
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, check=False, text=True
        )
    except FileNotFoundError as error:
        raise BootgraftError(
            "xorriso is needed to write an ISO, and is not there: install Debian's package xorriso"
        ) from error
    if done.returncode != 0:
        failures = [line for line in done.stderr.splitlines() if " : FAILURE : " in line]
        said = failures or done.stderr.splitlines() or ["it said nothing"]
        raise RefusedError(f"xorriso ended with status {done.returncode}: {said[-1]}")
