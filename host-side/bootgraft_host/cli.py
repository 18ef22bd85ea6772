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
from bootgraft_agent.errors import BootgraftError, InvalidRequestError, RefusedError
from bootgraft_agent.wire import JSON
from bootgraft_host.customise import iso as iso_commands
from bootgraft_host.detach_cli import detach
from bootgraft_host.doctor_cli import doctor
from bootgraft_host.job import Deadlines, NotRestoredError, Setup
from bootgraft_host.machine import Machine
from bootgraft_host.options import (
    CHECKOUT,
    DEFAULTS,
    boot_partition_option,
    checkpoint_option,
    choose_deadlines,
    choose_media,
    common_options,
    confirm_timeout_option,
    expect_option,
    find_live_iso,
    given,
    graft_options,
    leave_running_option,
    live_options,
    one_drive_option,
    open_state,
    payload_option,
    root_partition_option,
    vm_argument,
    with_options,
)
from bootgraft_host.recipe_cli import choose, recipe_options
from bootgraft_host.recipe_cli import recipe as recipe_commands
from bootgraft_host.recipes import Setting
from bootgraft_host.report import (
    make_console,
    make_reporter,
    print_error,
    print_result,
    print_status,
)
from bootgraft_host.restore import how_to_restore
from bootgraft_host.results import RESULT_FORMAT, RunResult
from bootgraft_host.runs import (
    Run,
    StateDirectory,
    Unfinished,
    encode_document,
)
from bootgraft_host.signals import interruptible
from bootgraft_host.targets import absolute_target, machine_for, may_name
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

MachineFor = Callable[[str], Machine]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the commands share."""

    machine_for: MachineFor
    out: Console
    err: Console


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
        print_error(failure, settings.err)
    except BootgraftError as error:
        failure = error
        print_error(failure, settings.err)
    except OSError as error:  # before or after a run: within one it becomes the run's result
        failure = BootgraftError(str(error))
        print_error(failure, settings.err)
    else:
        return status if isinstance(status, int) else 0
    if "--json" in arguments:
        _print_json(_to_document(failure), settings.out)
    return failure.exit_status


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_STATUSES)
@click.version_option(__version__, prog_name="bootgraft", message="%(prog)s %(version)s")
def bootgraft() -> None:
    """Graft a boot path into a virtual machine that cannot boot on its new hypervisor.

    VM is a vm.toml, or the folder that holds one: a machine that QEMU runs here. Or it is
    hyperv://HOST/VM, a machine of Generation 1 on a Hyper-V host (. is this computer), by its name
    or Id.
    """


@bootgraft.command(epilog=EXIT_STATUSES)
@vm_argument
@with_options(
    payload_option,
    recipe_options("What is to be done"),
    click.option("--dry-run", is_flag=True, help="Show the plan and its diffs, change nothing."),
    expect_option,
    graft_options,
    leave_running_option,
    checkpoint_option,
    one_drive_option,
    live_options,
    confirm_timeout_option,
    common_options,
)
@click.pass_obj
def run(
    shared: Settings,
    /,
    vm: str,
    payload: Path | None,
    recipes: Sequence[str],
    settings: Sequence[Setting],
    setting_files: Sequence[Setting],
    iso: Path | None,
    dry_run: bool,
    expect: re.Pattern[str] | None,
    leave_running: bool,
    checkpoint: bool,
    one_drive: bool,
    upload: bool,
    boot_timeout: float,
    request_timeout: float,
    confirm_timeout: float | None,
    state_dir: Path | None,
    as_json: bool,
    **graft_options: str | None,
) -> int:
    """Graft the machine VM and boot it from its own disk."""
    if payload is None and not recipes:
        raise click.UsageError("what is to be done? Give --payload, or --recipe, or both")
    chosen = choose(recipes, settings, setting_files)
    order = GraftOrder(
        media=choose_media(vm, iso, payload, upload=upload, one_drive=one_drive, recipes=chosen),
        options=given(graft_options),
        recipes=chosen,
        dry_run=dry_run,
        expect=expect,
        leave_running=leave_running,
        checkpoint=checkpoint,
    )
    deadlines = choose_deadlines(boot_timeout, request_timeout, confirm_timeout)
    return _conduct(
        shared, vm, state_dir, deadlines, lambda setup: run_graft(setup, order), as_json=as_json
    )


@bootgraft.command(epilog=EXIT_STATUSES)
@vm_argument
@with_options(
    payload_option,
    recipe_options("What would be done"),
    graft_options,
    one_drive_option,
    live_options,
    common_options,
)
@click.pass_obj
def inspect(
    shared: Settings,
    /,
    vm: str,
    payload: Path | None,
    recipes: Sequence[str],
    settings: Sequence[Setting],
    setting_files: Sequence[Setting],
    iso: Path | None,
    one_drive: bool,
    upload: bool,
    boot_timeout: float,
    request_timeout: float,
    state_dir: Path | None,
    as_json: bool,
    **graft_options: str | None,
) -> int:
    """Look at the disks of the machine VM, change nothing."""
    chosen = choose(recipes, settings, setting_files)
    media = choose_media(vm, iso, payload, upload=upload, one_drive=one_drive, recipes=chosen)
    options = given(graft_options)
    return _conduct(
        shared,
        vm,
        state_dir,
        choose_deadlines(boot_timeout, request_timeout, None),
        lambda setup: run_inspect(setup, media, options, chosen),
        as_json=as_json,
    )


@bootgraft.command(epilog=EXIT_STATUSES)
@vm_argument
@with_options(
    click.option("--run", "run_id", help="The run to take back.  [default: the last one]"),
    boot_partition_option,
    root_partition_option,
    live_options,
    common_options,
)
@click.pass_obj
def rollback(
    settings: Settings,
    /,
    vm: str,
    run_id: str | None,
    boot_partition: str | None,
    root_partition: str | None,
    iso: Path | None,
    upload: bool,
    boot_timeout: float,
    request_timeout: float,
    state_dir: Path | None,
    as_json: bool,
) -> int:
    """Bring the guest's files back as they were before a graft.

    The machine's own configuration, its legacy network adapter included, stays as it is.
    """
    media = choose_media(vm, iso, None, upload=upload)
    options = given({"boot_partition": boot_partition, "root_partition": root_partition})
    return _conduct(
        settings,
        vm,
        state_dir,
        choose_deadlines(boot_timeout, request_timeout, None),
        lambda setup: run_rollback(setup, media, options, run_id),
        as_json=as_json,
    )


@bootgraft.command(epilog=EXIT_STATUSES)
@vm_argument
@with_options(expect_option, leave_running_option, confirm_timeout_option, common_options)
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
    deadlines = choose_deadlines(DEFAULTS.hello, DEFAULTS.request, confirm_timeout)
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
@common_options
@click.pass_obj
def recover(settings: Settings, /, vm: str | None, state_dir: Path | None, as_json: bool) -> int:
    """Restore VM, or every machine, after a run that was cut off: off, no media, as captured."""
    state = open_state(state_dir)
    records = state.list_unfinished()
    outcomes: list[RunResult | BootgraftError] = []
    if vm is not None:
        target = absolute_target(vm)
        known = [each for each in records if may_name(target, each.target, each.machine_name)]
        outcomes.append(_recover(settings, target, state, known))
    else:
        outcomes += [_recover(settings, each.target, state, [each]) for each in records]
        outcomes += state.list_damaged()
    if not outcomes and not as_json:
        settings.out.print("nothing to recover")
    if as_json:
        _print_json({"results": [_to_document(outcome) for outcome in outcomes]}, settings.out)
    for outcome in outcomes:
        _print_outcome(settings, outcome, as_json=as_json)
    return max((outcome.exit_status for outcome in outcomes), default=0)


@bootgraft.command()
@common_options
@click.pass_obj
def status(settings: Settings, /, state_dir: Path | None, as_json: bool) -> int:
    """List machines that are not restored, and all runs with what they came to.

    Exit status 3 tells of a record that is damaged, 0 of none.
    """
    state = open_state(state_dir)
    damaged = state.list_damaged()
    unfinished = [(each, state.is_locked(each.machine_id)) for each in state.list_unfinished()]
    runs = [_summary(each) for each in state.list_runs()]
    if as_json:
        records = [{**asdict(each), "at_work": at_work} for each, at_work in unfinished]
        messages = [str(error) for error in damaged]
        _print_json({"unfinished": records, "damaged": messages, "runs": runs}, settings.out)
    else:
        print_status(state, unfinished, damaged, runs, settings.out)
    return max((error.exit_status for error in damaged), default=0)


@bootgraft.command()
@click.option("--iso", type=click.Path(path_type=Path), help="The live ISO, as for run.")
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


bootgraft.add_command(detach)
bootgraft.add_command(doctor)
bootgraft.add_command(iso_commands)
bootgraft.add_command(recipe_commands)


# What they do.


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
    outcome = _attempt(settings, vm, open_state(state_dir), deadlines, work)
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
    try:
        machine = settings.machine_for(absolute_target(vm))
        with closing(machine), make_reporter(settings.err) as reporter:
            return work(Setup(machine, state, reporter, deadlines))
    except BootgraftError as error:
        return error


def _recover(
    settings: Settings, target: str, state: StateDirectory, known: Sequence[Unfinished]
) -> RunResult | BootgraftError:
    """Recover a machine; where it cannot even be opened, say so of the records of it."""
    outcome = _attempt(settings, target, state, DEFAULTS, run_recover)
    at_work = isinstance(outcome, RefusedError)
    if isinstance(outcome, RunResult) or at_work or outcome.exit_status == 3 or not known:
        return outcome
    left = "; ".join(how_to_restore(state, each.machine_name, each.target) for each in known)
    return NotRestoredError(f"{outcome}; {left}")


def _print_outcome(
    settings: Settings, outcome: RunResult | BootgraftError, *, as_json: bool
) -> None:
    """Print for people: what went well on stdout, what did not on stderr."""
    if isinstance(outcome, BootgraftError):
        print_error(outcome, settings.err)
    elif outcome.exit_status:
        print_result(outcome, settings.err)
    elif not as_json:
        print_result(outcome, settings.out)


def _to_document(outcome: RunResult | BootgraftError) -> Mapping[str, JSON]:
    if isinstance(outcome, RunResult):
        return outcome.to_document()
    return {
        "format": RESULT_FORMAT,
        "outcome": {2: "invalid", 3: "left"}.get(outcome.exit_status, "refused"),
        "exit_status": outcome.exit_status,
        "message": str(outcome),
    }


def _print_json(document: Mapping[str, JSON], out: Console) -> None:
    out.print(encode_document(document).decode("ascii"), end="")


def _summary(each: Run) -> Mapping[str, JSON]:
    document = each.read_result() or {"outcome": "cut off"}
    keys = ("command", "outcome", "exit_status", "message")
    return {"run_id": each.run_id} | {key: document[key] for key in keys if key in document}
