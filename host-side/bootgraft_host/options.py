"""The options that commands share, and the media that they choose."""

import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from bootgraft_host.job import Deadlines
from bootgraft_host.machine import Media
from bootgraft_host.recipes import SHIM, Chosen
from bootgraft_host.runs import StateDirectory, default_state_directory
from bootgraft_host.targets import is_on_hyperv

DEFAULTS = Deadlines()
CHECKOUT = Path(__file__).resolve().parents[2]
INSTALLED_ISO = Path(sys.prefix) / "share" / "bootgraft" / "bootgraft.iso"
LONGEST_WAIT = 7 * 24 * 3600  # seconds

Command = Callable[..., int]
Decorator = Callable[[Command], Command]


class _Seconds(click.FloatRange):
    """A time to wait: FloatRange, whose comparisons let "nan" pass, without that."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is no number of seconds.", param, ctx)
        return seconds


_SECONDS = _Seconds(min=1, max=LONGEST_WAIT)


def _compile(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> re.Pattern[str] | None:
    """Compile a regular expression; "^" and "$" match at each line."""
    if value is None:
        return None
    try:
        pattern = re.compile(value, re.MULTILINE)
    except re.error as error:
        message = f"{value!r} is no regular expression: {error}"
        raise click.BadParameter(message, ctx, param) from error
    if pattern.search(""):
        raise click.BadParameter(f"{value!r} matches no text at all, which proves nothing")
    return pattern


def with_options(*decorators: Decorator) -> Decorator:
    """Apply options in the order in which the help lists them."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


payload_option = click.option(
    "--payload",
    type=click.Path(path_type=Path),
    help="The payload ISO, which holds shim/, or recipes; on a Hyper-V host a path there, unless"
    " --upload is given.",
)
vm_argument = click.argument("vm", metavar="VM")
common_options = with_options(
    click.option(
        "--state-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="Keep runs and machines' records here.  [default: $XDG_STATE_HOME/bootgraft]",
    ),
    click.option(
        "--json", "as_json", is_flag=True, help="Print the result as one JSON document on stdout."
    ),
)
iso_option = click.option(
    "--iso",
    type=click.Path(path_type=Path),
    help="The live ISO; on a Hyper-V host a path there, unless --upload is given.  [default:"
    " $BOOTGRAFT_ISO, else the checkout's build/bootgraft.iso, else the installed one; none on a"
    " Hyper-V host without --upload]",
)
upload_option = click.option(
    "--upload",
    is_flag=True,
    help="Copy the ISOs, which are files here, to the Hyper-V host for this run.",
)
one_drive_option = click.option(
    "--one-drive",
    is_flag=True,
    help="Use one DVD drive, where there is no place for a second one: the payload takes the live"
    " ISO's place once the live system runs.",
)
checkpoint_option = click.option(
    "--checkpoint",
    is_flag=True,
    help="Take a checkpoint first (Hyper-V); it is removed when the boot is proven, or the guest"
    " unchanged.",
)
expect_option = click.option(
    "--expect",
    metavar="REGEX",
    callback=_compile,
    help="What the guest prints on COM1 once it has booted: proves the boot.  [default: the"
    " heartbeat of its integration services proves it, where it has them]",
)
leave_running_option = click.option(
    "--leave-running",
    is_flag=True,
    help="Leave the machine on after its boot.  [default: its power is cut, as it was off before]",
)
confirm_timeout_option = click.option(
    "--confirm-timeout",
    type=_SECONDS,
    help="Seconds for --expect to match.  [default: 300; 60 of watching without --expect]",
)
live_options = with_options(
    iso_option,
    upload_option,
    click.option(
        "--boot-timeout",
        type=_SECONDS,
        default=DEFAULTS.hello,
        show_default=True,
        help="Seconds from power-on until the agent must be heard.",
    ),
    click.option(
        "--request-timeout",
        type=_SECONDS,
        default=DEFAULTS.request,
        show_default=True,
        help="Seconds for each of the agent's answers.",
    ),
)
boot_partition_option = click.option(
    "--boot-partition", help="The guest's boot partition, as in hda1."
)
root_partition_option = click.option(
    "--root-partition", help="The guest's root file system, as in hda2, for recipes."
)
graft_options = with_options(
    boot_partition_option,
    root_partition_option,
    click.option("--kernel", help="The guest's kernel to graft."),
    click.option("--shim", help="The payload's shim to load."),
    click.option("--shim-args", help="Arguments to append to the shim's line."),
    click.option(
        "--guest-disk",
        type=click.Choice(["hda", "sda"]),
        help="What the guest's kernel calls its first disk on the new hypervisor.",
    ),
)


def choose_media(
    vm: str,
    iso: Path | None,
    payload: Path | None,
    *,
    upload: bool,
    one_drive: bool = False,
    recipes: Sequence[Chosen] = (),
) -> Media:
    """Choose the ISOs of a run on the machine `vm`: files here, or paths on its host.

    With recipes, a payload ISO that is here is made of them; `payload` then gives the shim alone.
    Raises UsageError where there is no live ISO, or a file that should be here is not.
    """
    _check_payload(vm, payload, recipes, upload=upload)
    if is_on_hyperv(vm) and not upload:
        if iso is None:
            raise click.UsageError(
                "the live ISO on a Hyper-V host has no default: name it with --iso, a path on that"
                " host, or have it copied there with --upload"
            )
        return Media(iso, payload, one_drive)
    if upload and not is_on_hyperv(vm):
        raise click.UsageError(f"--upload is for machines on a Hyper-V host, and {vm} is here")
    live_iso = find_live_iso(iso, os.environ)
    return Media(live_iso, payload and _find_file(payload, "--payload"), one_drive, upload)


def _check_payload(
    vm: str, payload: Path | None, recipes: Sequence[Chosen], *, upload: bool
) -> None:
    """Refuse a payload that recipes do not need, lack, or could not be brought to."""
    if not recipes:
        return
    needs_shim = any(each.name == SHIM for each in recipes)
    if needs_shim and payload is None:
        raise click.UsageError(f"{SHIM} needs --payload, the ISO that holds the shim")
    if payload is not None and not needs_shim:
        raise click.UsageError(
            f"with --recipe the payload is made here, and --payload gives {SHIM} its shim, which is"
            " none of these recipes"
        )
    if is_on_hyperv(vm) and not upload:
        raise click.UsageError("recipes are put into an ISO here: --upload brings it to the host")


def find_live_iso(given: Path | None, environment: Mapping[str, str]) -> Path:
    """Choose the live ISO among files here. Raises UsageError where there is none."""
    if given is not None:
        return _find_file(given, "--iso")
    if named := environment.get("BOOTGRAFT_ISO"):
        return Path(named).absolute()
    for path in (CHECKOUT / "build" / "bootgraft.iso", INSTALLED_ISO):
        if path.is_file():
            return path
    raise click.UsageError("there is no live ISO: build it with `make iso`, or name it with --iso")


def _find_file(path: Path, option: str) -> Path:
    if not path.exists():
        raise click.BadParameter(f"File {str(path)!r} does not exist.", param_hint=repr(option))
    if path.is_dir():
        raise click.BadParameter(f"File {str(path)!r} is a directory.", param_hint=repr(option))
    return path.absolute()


def choose_deadlines(boot: float, request: float, confirm: float | None) -> Deadlines:
    """Choose how long each wait may take."""
    return Deadlines(
        hello=boot,
        request=request,
        confirm=confirm or DEFAULTS.confirm,
        watch=confirm or DEFAULTS.watch,
    )


def given(values: Mapping[str, str | None]) -> dict[str, str]:
    """Leave out what was not given."""
    return {name: value for name, value in values.items() if value is not None}


def open_state(directory: Path | None) -> StateDirectory:
    """Open the state directory that --state-dir names, or the user's own."""
    root = directory or default_state_directory(os.environ)
    return StateDirectory(root.absolute(), named=directory is not None)
