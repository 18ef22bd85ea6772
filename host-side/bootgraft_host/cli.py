"""The command line of the host side: `bootgraft`."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console

from bootgraft_agent import __version__
from bootgraft_agent.errors import BootgraftError, InvalidRequestError
from bootgraft_agent.wire import JSON
from bootgraft_host.job import Deadlines, Setup
from bootgraft_host.machine import Machine, Media
from bootgraft_host.report import (
    make_console,
    make_reporter,
    print_message,
    print_result,
    print_status,
)
from bootgraft_host.results import RESULT_FORMAT, RunResult
from bootgraft_host.runs import Run, StateDirectory, default_state_directory, encode_document
from bootgraft_host.signals import interruptible
from bootgraft_host.targets import machine_for
from bootgraft_host.workflow import (
    GraftOrder,
    run_confirm,
    run_graft,
    run_inspect,
    run_recover,
    run_rollback,
)

EXIT_STATUSES = """\b
Exit status:
  0  done, or already grafted
  1  refused or failed; the guest is unchanged, the machine restored
  2  invalid request
  3  failed with something left: the message says what, and the command
  4  grafted, but the boot is not proven
"""
DEFAULTS = Deadlines()
CHECKOUT = Path(__file__).resolve().parents[2]
INSTALLED_ISO = Path(sys.prefix) / "share" / "bootgraft" / "bootgraft.iso"

MachineFor = Callable[[str], Machine]
Command = Callable[..., int]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the commands share."""

    machine_for: MachineFor
    out: Console
    err: Console


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


def main(argv: Sequence[str] | None = None, *, machines: MachineFor = machine_for) -> int:
    """Run the command line; give the exit status. `machines` opens the machine that VM names."""
    settings = Settings(machines, make_console(stderr=False), make_console(stderr=True))
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        with interruptible():
            status = bootgraft.main(
                arguments, prog_name="bootgraft", standalone_mode=False, obj=settings
            )
    except click.ClickException as error:
        failure: BootgraftError = InvalidRequestError(error.format_message())
        error.show()
    except (click.Abort, KeyboardInterrupt):
        failure = BootgraftError("interrupted")
        print_message(str(failure), settings.err)
    except BootgraftError as error:
        failure = error
        print_message(str(failure), settings.err)
    except OSError as error:  # before or after a run: within one it becomes the run's result
        failure = BootgraftError(str(error))
        print_message(str(failure), settings.err)
    else:
        return status if isinstance(status, int) else 0
    if "--json" in arguments:
        _print_json(_to_document(failure), settings.out)
    return failure.exit_status


# What commands share.

_vm_argument = click.argument("vm", metavar="VM")
_state_option = click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep runs and machines' records here.  [default: $XDG_STATE_HOME/bootgraft]",
)
_json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as one JSON document on stdout."
)
_iso_option = click.option(
    "--iso",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The live ISO.  [default: $BOOTGRAFT_ISO, else the checkout's build/bootgraft.iso, else"
    " the installed one]",
)
_expect_option = click.option(
    "--expect",
    metavar="REGEX",
    callback=_compile,
    help="What the guest prints on COM1 once it has booted: proves the boot.",
)
_leave_running_option = click.option(
    "--leave-running",
    is_flag=True,
    help="Leave the machine on after its boot.  [default: its power is cut, as it was off before]",
)
_confirm_timeout_option = click.option(
    "--confirm-timeout",
    type=click.FloatRange(min=1),
    help="Seconds for --expect to match.  [default: 300; 60 of watching without --expect]",
)


def _options(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Apply options in the order in which the help lists them."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


_common_options = _options(_state_option, _json_option)
_live_options = _options(
    _iso_option,
    click.option(
        "--boot-timeout",
        type=click.FloatRange(min=1),
        default=DEFAULTS.hello,
        show_default=True,
        help="Seconds from power-on until the agent must be heard.",
    ),
    click.option(
        "--request-timeout",
        type=click.FloatRange(min=1),
        default=DEFAULTS.request,
        show_default=True,
        help="Seconds for each of the agent's answers.",
    ),
)
_boot_partition_option = click.option(
    "--boot-partition", help="The guest's boot partition, as in hda1."
)
_graft_options = _options(
    _boot_partition_option,
    click.option("--kernel", help="The guest's kernel to graft."),
    click.option("--shim", help="The payload's shim to load."),
    click.option("--shim-args", help="Arguments to append to the shim's line."),
    click.option(
        "--guest-disk",
        type=click.Choice(["hda", "sda"]),
        help="What the guest's kernel calls its first disk on the new hypervisor.",
    ),
)
_payload_option = click.option(
    "--payload",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The payload ISO, which holds shim/.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_STATUSES)
@click.version_option(__version__, prog_name="bootgraft", message="%(prog)s %(version)s")
def bootgraft() -> None:
    """Graft a boot path into a virtual machine that cannot boot on its new hypervisor.

    VM is a vm.toml, or the folder that holds one.
    """


@bootgraft.command(epilog=EXIT_STATUSES)
@_vm_argument
@_options(
    click.option(
        "--payload",
        required=True,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="The payload ISO, which holds shim/.",
    ),
    click.option("--dry-run", is_flag=True, help="Show the plan and its diffs, change nothing."),
    _expect_option,
    _graft_options,
    _leave_running_option,
    _live_options,
    _confirm_timeout_option,
    _common_options,
)
@click.pass_obj
def run(
    settings: Settings,
    /,
    vm: str,
    payload: Path,
    iso: Path | None,
    dry_run: bool,
    expect: re.Pattern[str] | None,
    leave_running: bool,
    boot_timeout: float,
    request_timeout: float,
    confirm_timeout: float | None,
    state_dir: Path | None,
    as_json: bool,
    **graft_options: str | None,
) -> int:
    """Graft the machine VM and boot it from its own disk."""
    order = GraftOrder(
        media=Media(find_live_iso(iso, os.environ), payload),
        options=_given(graft_options),
        dry_run=dry_run,
        expect=expect,
        leave_running=leave_running,
    )
    deadlines = _deadlines(boot_timeout, request_timeout, confirm_timeout)
    return _conduct(
        settings, vm, state_dir, deadlines, lambda setup: run_graft(setup, order), as_json=as_json
    )


@bootgraft.command(epilog=EXIT_STATUSES)
@_vm_argument
@_options(_payload_option, _graft_options, _live_options, _common_options)
@click.pass_obj
def inspect(
    settings: Settings,
    /,
    vm: str,
    payload: Path | None,
    iso: Path | None,
    boot_timeout: float,
    request_timeout: float,
    state_dir: Path | None,
    as_json: bool,
    **graft_options: str | None,
) -> int:
    """Look at the disks of the machine VM, change nothing."""
    media = Media(find_live_iso(iso, os.environ), payload)
    options = _given(graft_options)
    return _conduct(
        settings,
        vm,
        state_dir,
        _deadlines(boot_timeout, request_timeout, None),
        lambda setup: run_inspect(setup, media, options),
        as_json=as_json,
    )


@bootgraft.command(epilog=EXIT_STATUSES)
@_vm_argument
@_options(
    click.option("--run", "run_id", help="The run to take back.  [default: the last one]"),
    _boot_partition_option,
    _live_options,
    _common_options,
)
@click.pass_obj
def rollback(
    settings: Settings,
    /,
    vm: str,
    run_id: str | None,
    boot_partition: str | None,
    iso: Path | None,
    boot_timeout: float,
    request_timeout: float,
    state_dir: Path | None,
    as_json: bool,
) -> int:
    """Bring the guest's files back as they were before a graft.

    The machine's own configuration, its legacy network adapter included, stays as it is.
    """
    media = Media(find_live_iso(iso, os.environ), None)
    options = _given({"boot_partition": boot_partition})
    return _conduct(
        settings,
        vm,
        state_dir,
        _deadlines(boot_timeout, request_timeout, None),
        lambda setup: run_rollback(setup, media, options, run_id),
        as_json=as_json,
    )


@bootgraft.command(epilog=EXIT_STATUSES)
@_vm_argument
@_options(_expect_option, _leave_running_option, _confirm_timeout_option, _common_options)
@click.pass_obj
def confirm(
    settings: Settings,
    /,
    vm: str,
    expect: re.Pattern[str] | None,
    leave_running: bool,
    confirm_timeout: float | None,
    state_dir: Path | None,
    as_json: bool,
) -> int:
    """Boot the machine VM, grafted before, from its own disk once more."""
    deadlines = _deadlines(DEFAULTS.hello, DEFAULTS.request, confirm_timeout)
    return _conduct(
        settings,
        vm,
        state_dir,
        deadlines,
        lambda setup: run_confirm(setup, expect, leave_running=leave_running),
        as_json=as_json,
    )


@bootgraft.command(epilog=EXIT_STATUSES)
@click.argument("vm", metavar="[VM]", required=False)
@_common_options
@click.pass_obj
def recover(settings: Settings, /, vm: str | None, state_dir: Path | None, as_json: bool) -> int:
    """Restore VM, or every machine, after a run that was cut off: off, no media, as captured."""
    state = _state(state_dir)
    targets = [vm] if vm is not None else [each.target for each in state.list_unfinished()]
    if not targets and not as_json:
        settings.out.print("nothing to recover")
    outcomes = [_attempt(settings, each, state, Deadlines(), run_recover) for each in targets]
    if as_json:
        _print_json({"results": [_to_document(outcome) for outcome in outcomes]}, settings.out)
    for outcome in outcomes:
        _print_outcome(settings, outcome, as_json=as_json)
    return max((outcome.exit_status for outcome in outcomes), default=0)


@bootgraft.command()
@_common_options
@click.pass_obj
def status(settings: Settings, /, state_dir: Path | None, as_json: bool) -> int:
    """List machines that are not restored, and all runs with what they came to."""
    state = _state(state_dir)
    unfinished = [(each, state.is_locked(each.machine_id)) for each in state.list_unfinished()]
    runs = [_summary(each) for each in state.list_runs()]
    if as_json:
        records = [{**asdict(each), "at_work": at_work} for each, at_work in unfinished]
        _print_json({"unfinished": records, "runs": runs}, settings.out)
    else:
        print_status(state, unfinished, runs, settings.out)
    return 0


@bootgraft.command()
@_iso_option
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Emptied, then filled with the demo.  [default: the checkout's build/demo]",
)
def demo(iso: Path | None, directory: Path | None) -> int:
    """Make an appliance that cannot boot, graft it, and boot it (from a checkout only).

    `make demo` installs what this needs and builds the ISO first.
    """
    tests = CHECKOUT / "tests"
    if not (tests / "vm" / "demo.py").is_file():
        raise click.UsageError("the demo's appliance is made by the tests: run it in a checkout")
    argv = [sys.executable, "-m", "vm.demo", "--iso", str(find_live_iso(iso, os.environ))]
    if directory is not None:
        argv += ["--directory", str(directory.absolute())]
    return subprocess.run(
        argv, env={**os.environ, "PYTHONPATH": str(tests)}, check=False
    ).returncode


# What they do.


def find_live_iso(given: Path | None, environment: Mapping[str, str]) -> Path:
    """Choose the live ISO. Raises UsageError where there is none."""
    if given is not None:
        return given.absolute()
    if named := environment.get("BOOTGRAFT_ISO"):
        return Path(named).absolute()
    for path in (CHECKOUT / "build" / "bootgraft.iso", INSTALLED_ISO):
        if path.is_file():
            return path
    raise click.UsageError("there is no live ISO: build it with `make iso`, or name it with --iso")


def _conduct(
    settings: Settings,
    vm: str,
    state_dir: Path | None,
    deadlines: Deadlines,
    work: Callable[[Setup], RunResult],
    *,
    as_json: bool,
) -> int:
    """Do a run, print what it came to, give its exit status."""
    outcome = _attempt(settings, vm, _state(state_dir), deadlines, work)
    if as_json:
        _print_json(_to_document(outcome), settings.out)
    _print_outcome(settings, outcome, as_json=as_json)
    return outcome.exit_status


def _attempt(
    settings: Settings,
    vm: str,
    state: StateDirectory,
    deadlines: Deadlines,
    work: Callable[[Setup], RunResult],
) -> RunResult | BootgraftError:
    """Do a run; give its result, or why there was none."""
    target = vm if "://" in vm else str(Path(vm).absolute())
    try:
        machine = settings.machine_for(target)
        with closing(machine), make_reporter(settings.err) as reporter:
            return work(Setup(machine, target, state, reporter, deadlines))
    except BootgraftError as error:
        return error


def _print_outcome(
    settings: Settings, outcome: RunResult | BootgraftError, *, as_json: bool
) -> None:
    """Print for people: what went well on stdout, what did not on stderr."""
    if isinstance(outcome, BootgraftError):
        print_message(str(outcome), settings.err)
    elif outcome.exit_status:
        print_result(outcome, settings.err)
    elif not as_json:
        print_result(outcome, settings.out)


def _to_document(outcome: RunResult | BootgraftError) -> Mapping[str, JSON]:
    if isinstance(outcome, RunResult):
        return outcome.to_document()
    return {
        "format": RESULT_FORMAT,
        "outcome": "invalid" if outcome.exit_status == 2 else "refused",
        "exit_status": outcome.exit_status,
        "message": str(outcome),
    }


def _print_json(document: Mapping[str, JSON], out: Console) -> None:
    out.print(encode_document(document).decode("ascii"), end="")


def _summary(each: Run) -> Mapping[str, JSON]:
    document = each.read_result() or {"outcome": "cut off"}
    keys = ("command", "outcome", "exit_status", "message")
    return {"run_id": each.run_id} | {key: document[key] for key in keys if key in document}


def _state(directory: Path | None) -> StateDirectory:
    root = directory or default_state_directory(os.environ)
    return StateDirectory(root.absolute(), named=directory is not None)


def _given(options: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in options.items() if value is not None}


def _deadlines(boot: float, request: float, confirm: float | None) -> Deadlines:
    return Deadlines(
        hello=boot,
        request=request,
        confirm=confirm or DEFAULTS.confirm,
        watch=confirm or DEFAULTS.watch,
    )
