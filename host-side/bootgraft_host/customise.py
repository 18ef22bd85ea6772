"""`bootgraft iso customise`: a copy of the live ISO that boots another way, without a new build.

The boot loaders' configurations are edited, and a payload added; nothing else: kernel, initramfs,
Secure Boot's chain and the ways to boot stay.

Sources: syslinux's doc/syslinux.txt (DISPLAY, SAY, DEFAULT, PROMPT, TIMEOUT); GRUB's manual
(timeout, default, linux).
"""

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from bootgraft_agent.errors import InvalidRequestError, RefusedError
from bootgraft_agent.parameters import MODES, PREFIX, Mode, parse_parameters
from bootgraft_host.recipe_cli import choose, recipe_options
from bootgraft_host.recipes import (
    RECIPE,
    RECIPES,
    SHIM,
    Chosen,
    Setting,
    find_shim_folder,
    map_payload,
    read_payload_folder,
    sets_secret,
)
from bootgraft_host.xorriso import as_file, run_xorriso

ISOLINUX = "/isolinux/isolinux.cfg"
GRUB = "/boot/grub/grub.cfg"
PAYLOADS = ("/shim", f"/{RECIPES}")
LONGEST_MENU = 300  # seconds
_ISOLINUX_STARTS = r"^#?say (\d) starts by itself in (\d+) s\."
# Words of the kernel's command line that mean nothing to either boot loader.
_WORD = re.compile(r"[A-Za-z0-9_.,:=/@%+-]+")
# A line that starts the agent, in either configuration; a shell gets no parameters.
_STARTS_AGENT = r"^\s+(?:append|linux) [^\n]*\bbootgraft\.mode=(?!rescue)[^\n]*$"


@dataclass(frozen=True, slots=True)
class BootChanges:
    """How a copy is to boot; what is None stays as it is."""

    menu_time: int | None = None  # seconds; 0: no menu
    mode: Mode | None = None  # what starts by itself
    parameters: Sequence[str] = ()

    def __bool__(self) -> bool:
        return self != BootChanges()


@click.group()
def iso() -> None:
    """Work with the live ISO itself."""


@iso.command()
@click.argument("source", metavar="IN", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--mode",
    type=click.Choice(MODES),
    help="What starts by itself: host waits for `bootgraft run`; unattended grafts and switches the"
    " machine off.",
)
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set an option of the live system, as in boot-partition=hda1, kernel=NAME, shim=NAME,"
    " payload-wait=300, power-off-after=never. May be given again.",
)
@click.option(
    "--add-payload",
    "payload",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Put the payload on the live ISO itself: DIR holds recipe.toml with its files, or"
    " recipes.toml, or the directory shim, as the payload ISO does. One ISO is then all that a"
    " machine needs.",
)
@recipe_options("Put recipes on the live ISO itself; hyperv-shim needs --add-payload, too")
@click.option(
    "--menu-time",
    type=click.IntRange(0, LONGEST_MENU),
    help="Seconds that the boot menu waits for a key, 2 as the ISO is built; 0: there is none.",
)
@click.option(
    "--kernel-parameter",
    "parameters",
    multiple=True,
    metavar="WORD",
    help="Add to the command line of the live system's kernel, as in bootgraft.shell. May be given"
    " again.",
)
def customise(
    source: Path,
    target: Path,
    mode: Mode | None,
    options: Sequence[str],
    payload: Path | None,
    recipes: Sequence[str],
    settings: Sequence[Setting],
    setting_files: Sequence[Setting],
    menu_time: int | None,
    parameters: Sequence[str],
) -> int:
    """Write OUT, a copy of the live ISO IN that boots as the options say."""
    words = [*(f"{PREFIX}{option}" for option in options), *parameters]
    changes = BootChanges(menu_time, mode, tuple(words))
    chosen = choose(recipes, settings, setting_files)
    if not changes and payload is None and not chosen:
        raise click.UsageError(
            "nothing to change: give --mode, --option, --add-payload, --recipe, --menu-time or"
            " --kernel-parameter"
        )
    customise_iso(source, target, changes, payload, chosen)
    click.echo(f"{target}: written; attach it to a machine, or give it to `bootgraft run --iso`")
    return 0


def customise_iso(
    source: Path,
    target: Path,
    changes: BootChanges,
    payload: Path | None = None,
    recipes: Sequence[Chosen] = (),
) -> None:
    """Write a changed copy of the live ISO, whole or not at all.

    `payload` is a folder with recipes or the directory shim; for `recipes` it holds the shim alone.
    Where a secret is set, the copy is only our user's.
    Raises InvalidRequestError for a wrong word, name or recipe, RefusedError where `source` is no
    live ISO, BootgraftError where the copy cannot be made.
    """
    _check_parameters(changes.parameters)
    recipes, shim = _choose_payload(payload, recipes)
    if not source.is_file():
        raise InvalidRequestError(f"{source} is not there, or is no file")
    if not target.parent.is_dir():
        raise InvalidRequestError(f"there is no folder {target.parent} to write {target.name} to")
    if target.exists():
        raise InvalidRequestError(f"{target} is there already: name another file, or remove it")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".bootgraft-") as folder:
        mapped = []
        edits = {ISOLINUX: edit_isolinux, GRUB: edit_grub}
        for number, (path, edit) in enumerate(edits.items()):
            file = Path(folder, f"config-{number}")
            _extract(source, path, file)
            file.write_text(_edited(edit, source, path, file, changes), "utf-8")
            mapped += ["-map", str(file), path]
        if recipes:
            _refuse_second_payload(source, Path(folder, "payload"))
            mapped += map_payload(recipes, shim, Path(folder))
        copy = Path(folder, "copy.iso")
        media = ("-indev", as_file(source), "-outdev", as_file(copy))
        run_xorriso(*media, "-boot_image", "any", "replay", *mapped)
        if any(map(sets_secret, recipes)):
            copy.chmod(0o600)
        copy.rename(target)


def _check_parameters(words: Sequence[str]) -> None:
    for word in words:
        if not _WORD.fullmatch(word):
            raise InvalidRequestError(
                f"{word!r} is not one plain word of a kernel's command line: letters, digits and"
                " _ . , : = / @ % + - may be in it"
            )
        for problem in parse_parameters(word).problems:
            raise InvalidRequestError(problem)


def _choose_payload(
    payload: Path | None, recipes: Sequence[Chosen]
) -> tuple[Sequence[Chosen], Path | None]:
    """Give what is to be put on the ISO: recipes, and the directory shim where one needs it."""
    if not recipes:
        return ((), None) if payload is None else read_payload_folder(payload)
    _refuse_list(payload)
    if payload is None and any(each.name == SHIM for each in recipes):
        raise InvalidRequestError(f"{SHIM} needs --add-payload, a folder with the directory shim")
    return recipes, None if payload is None else find_shim_folder(payload)


def _refuse_list(payload: Path | None) -> None:
    found = [payload / name for name in (RECIPE, RECIPES)] if payload else []
    for each in filter(Path.is_file, found):
        raise InvalidRequestError(
            f"{each} says which recipes go onto the ISO: leave --recipe out, or take it away"
        )


def _refuse_second_payload(source: Path, scratch: Path) -> None:
    for number, path in enumerate(PAYLOADS):
        try:
            run_xorriso(
                *("-osirrox", "on", "-indev", as_file(source)),
                "-extract",
                path,
                f"{scratch}-{number}",
            )
        except RefusedError:
            continue
        raise RefusedError(f"{source} holds a payload already: start from an ISO without one")


def edit_isolinux(text: str, changes: BootChanges) -> str:
    """Edit isolinux.cfg. Raises ValueError, as all of these do, for one that is not ours."""
    found = re.search(_ISOLINUX_STARTS, text, re.MULTILINE)
    if found is None:
        raise ValueError(f"0 times {_ISOLINUX_STARTS!r}")
    number, seconds = int(found[1]), int(found[2])
    if changes.mode is not None:
        number = MODES.index(changes.mode) + 1
    if changes.menu_time is not None:
        seconds = changes.menu_time
    mark = "" if seconds else "#"
    text = _replace(text, r"^#?display ", f"{mark}display ")
    text = _replace(text, _ISOLINUX_STARTS, f"{mark}say {number} starts by itself in {seconds} s.")
    text = _replace(text, r"^default \d$", f"default {number}")
    text = _replace(text, r"^prompt \d$", f"prompt {1 if seconds else 0}")
    text = _replace(text, r"^timeout \d+$", f"timeout {10 * seconds}")
    return _append(text, changes.parameters)


def edit_grub(text: str, changes: BootChanges) -> str:
    """Edit grub.cfg."""
    if changes.menu_time is not None:
        text = _replace(text, r"^set timeout=\d+$", f"set timeout={changes.menu_time}")
    if changes.mode is not None:
        name = "live" if changes.mode == "host" else changes.mode
        text = _replace(text, r"^set default=\S+$", f"set default={name}")
    return _append(text, changes.parameters)


def _append(text: str, parameters: Sequence[str]) -> str:
    """Add words to the end of each line that starts the agent."""
    return _replace(
        text, _STARTS_AGENT, lambda found: " ".join([found[0], *parameters]), times=len(MODES) - 1
    )


def _replace(
    text: str, pattern: str, by: str | Callable[[re.Match[str]], str], *, times: int = 1
) -> str:
    replace = by if callable(by) else lambda _: by
    text, count = re.subn(pattern, replace, text, flags=re.MULTILINE)
    if count != times:
        raise ValueError(f"{count} times {pattern!r}")
    return text


def _edited(
    edit: Callable[[str, BootChanges], str],
    source: Path,
    path: str,
    file: Path,
    changes: BootChanges,
) -> str:
    try:
        return edit(file.read_text("utf-8"), changes)
    except ValueError as error:
        raise RefusedError(
            f"{source} is no live ISO of this version of bootgraft: its {path} holds {error}"
        ) from error


def _extract(source: Path, path: str, file: Path) -> None:
    try:
        run_xorriso("-osirrox", "on", "-indev", as_file(source), "-extract", path, file)
    except RefusedError as error:
        raise RefusedError(f"{source} is no live ISO: it has no {path} ({error})") from error
    file.chmod(0o600)  # the ISO's own files cannot be written
