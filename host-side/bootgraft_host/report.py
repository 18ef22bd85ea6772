"""What happened, for people: progress on stderr while it happens, the result on stdout.

Nothing of a guest's is ever markup or a control character here: texts are printed literally, and
whatever is not plainly visible as an escape.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import TextIOWrapper
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from bootgraft_agent.errors import BootgraftError
from bootgraft_agent.recipe_file import RecipeError
from bootgraft_agent.wire import JSON
from bootgraft_host import replies
from bootgraft_host.results import Outcome, Proof, RunResult
from bootgraft_host.runs import DamagedRecordError, StateDirectory, Unfinished
from bootgraft_host.text import printable, printable_lines

_HEADLINES: Mapping[Outcome, str] = {
    "inspected": "inspected; nothing was changed",
    "planned": "planned; nothing was changed",
    "grafted": "grafted",
    "already-grafted": "already grafted; nothing was changed",
    "rolled-back": "rolled back",
    "confirmed": "booted from its own disk",
    "restored": "restored",
    "refused": "refused",
    "invalid": "invalid request",
    "failed": "failed",
    "left": "failed, with something left to do",
    "unproven": "the boot is not proven",
}
_PROOFS: Mapping[Proof, str] = {
    "com1": "the guest's own words on COM1",
    "heartbeat": "the guest's own sign of life",
}
_UNCHANGED: frozenset[Outcome] = frozenset({"refused", "invalid", "failed"})
_DIFF_STYLES = {"+": "green", "-": "red", "@": "cyan"}


class _Console(Console):
    """A console that falls silent when nobody reads it any more: the run goes on."""

    def on_broken_pipe(self) -> None:
        """Print nothing more."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)

    def _write_buffer(self) -> None:
        """Write what was printed; a terminal that was closed is as gone as a closed pipe."""
        try:
            super()._write_buffer()
        except OSError:
            self.on_broken_pipe()


def make_console(*, stderr: bool) -> Console:
    """Make a console that prints texts as they are, and never wraps a line."""
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # what the user's encoding does not have
    return _Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)


class PlainReporter:
    """Tells a run as it goes: one line per step and warning."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> "PlainReporter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing is held."""

    def step(self, name: str, text: str) -> None:
        """Print the step that begins."""
        self._console.print(f"{name}: {printable(text)}")

    def event(self, event: replies.Progress | replies.Log) -> None:
        """Print what is more than progress."""
        if isinstance(event, replies.Log):
            self._console.print(_log_line(event))


class LiveReporter:
    """Tells a run on a terminal: the present step with its time and progress, at the bottom."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn(
                "{task.description}", markup=False, table_column=Column(ratio=1, overflow="fold")
            ),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            expand=True,
        )
        self._step = ""
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> "LiveReporter":
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Take the live line away."""
        self._progress.stop()

    def step(self, name: str, text: str) -> None:
        """Print the step that begins, and show it as the present one."""
        self._step = name
        self._progress.console.print(_line(f"{name}: ", printable(text), style="bold"))
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task(name, total=None)

    def event(self, event: replies.Progress | replies.Log) -> None:
        """Show progress, print the rest."""
        if isinstance(event, replies.Log):
            self._progress.console.print(_log_line(event))
            return
        self._progress.update(
            self._task,
            description=f"{self._step}: {printable(event.text)}",
            completed=min(event.done, event.total),
            total=event.total or None,
        )


def make_reporter(console: Console) -> PlainReporter | LiveReporter:
    """Choose how a run is told: live on a terminal."""
    return LiveReporter(console) if console.is_terminal else PlainReporter(console)


def print_result(result: RunResult, console: Console) -> None:
    """Print what a run has come to."""
    for line in _describe_result(result):
        console.print(line)


def print_message(message: str, console: Console) -> None:
    """Print an error's message."""
    console.print(_line("bootgraft: ", printable(message), style="bold red"))


def print_error(error: BootgraftError, console: Console) -> None:
    """Print an error's message; a recipe's problems each on a line of its own."""
    for line in error.problems if isinstance(error, RecipeError) else (str(error),):
        print_message(line, console)


def print_status(
    state: StateDirectory,
    unfinished: Sequence[tuple[Unfinished, bool]],
    damaged: Sequence[DamagedRecordError],
    runs: Sequence[Mapping[str, JSON]],
    console: Console,
) -> None:
    """Print which machines are not restored (and whether a controller is at it), and all runs."""
    for error in damaged:
        console.print(f"a machine is not restored: {printable(str(error))}")
    for record, at_work in unfinished:
        name = printable(record.machine_name)
        if at_work:
            console.print(f"{name}: the run {record.run_id} is at work ({record.stage})")
        else:
            console.print(f"{name}: not restored after the run {record.run_id} ({record.stage}):")
            console.print(f"  {state.command('recover', record.target).strip('`')}")
    for run in runs:
        console.print("  ".join(printable(str(each)) for each in run.values()))
    if not unfinished and not damaged and not runs:
        console.print("no runs yet")


def _describe_result(result: RunResult) -> Iterator[Text | str]:
    if result.inspection is not None and result.command == "inspect":
        yield from _section("facts", _describe_json(result.inspection.facts))
    if result.plan is not None and result.applied is None:
        steps = (f"{number}. {step.text}" for number, step in enumerate(result.plan.steps, 1))
        yield from _section("plan", steps)
    yield from _describe_diffs(result)
    yield from _describe_changes(result)
    yield from _section("warnings", result.warnings)
    yield from _describe_outcome(result)


def _describe_diffs(result: RunResult) -> Iterator[Text | str]:
    part = result.applied or result.plan
    for diff in part.diffs if part is not None else ():
        for line in printable_lines(diff.diff):
            yield Text(line, style=_DIFF_STYLES.get(line[:1], ""))


def _describe_changes(result: RunResult) -> Iterator[Text | str]:
    part = result.applied or result.rolled_back
    if part is None:
        return
    yield from _section("changes", (_describe_change(change) for change in part.changes))
    yield from _section("verified", part.verified)


def _describe_change(change: replies.Change) -> str:
    if change.before_sha256 is None:
        return f"{change.path} (new)"
    return f"{change.path} (removed)" if change.after_sha256 is None else change.path


def _describe_outcome(result: RunResult) -> Iterator[Text | str]:
    name = printable(result.machine_name)
    style = "bold green" if result.exit_status == 0 else "bold red"
    yield _line(f"{name}: ", _HEADLINES[result.outcome], style=style)
    if result.plan is not None:
        yield f"  recipes: {printable(', '.join(result.plan.recipe_names))}"
    if result.message:
        yield f"  {printable(result.message)}"
    problem = None if result.inspection is None else result.inspection.problem
    if problem is not None and problem != result.message:
        yield f"  no graft is possible: {printable(problem)}"
    if result.outcome in _UNCHANGED and result.command != "recover":
        yield "  the guest is unchanged, the machine is as it was"
    yield from (f"  {line}" for line in _describe_boot(result))
    if result.adapter_kept:
        yield "  every network adapter is a legacy one now, with the MAC address as before"
    if result.left_running:
        yield "  the machine was left running"
    yield f"  everything about this run: {result.directory}"


def _describe_boot(result: RunResult) -> Iterator[str]:
    boot = result.confirmation
    if result.outcome == "already-grafted":
        yield "its boot was not tried again; `bootgraft confirm` does that"
    if boot is None:
        return
    if boot.proof is not None:
        yield f"boot proven after {boot.seconds:.0f} s by {_PROOFS[boot.proof]}:"
        yield from (f"  {printable(line)}" for line in boot.evidence)
    elif result.exit_status == 0:
        yield "its boot was started and shown, not proven; --expect REGEX proves it"
    yield from (f"picture: {path}" for path in boot.pictures)


def _describe_json(value: JSON, indent: str = "") -> Iterator[str]:
    """Give a JSON object or list as indented lines."""
    pairs: Sequence[tuple[str, JSON]] = ()
    if isinstance(value, Mapping):
        pairs = tuple((f"{key}:", each) for key, each in value.items())
    elif isinstance(value, list | tuple):
        pairs = tuple(("-", each) for each in value)
    for head, each in pairs:
        if isinstance(each, Mapping | list | tuple) and each:
            yield f"{indent}{head}"
            yield from _describe_json(each, indent + "  ")
        else:
            yield f"{indent}{head} {_describe_scalar(each)}"


def _describe_scalar(value: JSON) -> str:
    words: Mapping[object, str] = {None: "none", True: "yes", False: "no"}
    if value is None or isinstance(value, bool):
        return words[value]
    return str(value) if value or value == 0 else "none"


def _section(title: str, lines: Iterable[str]) -> Iterator[Text | str]:
    found = list(lines)
    if found:
        yield Text(f"{title}:", style="bold")
        yield from (f"  {printable(line)}" for line in found)


def _log_line(event: replies.Log) -> Text:
    style = "yellow" if event.level == "warning" else ""
    return Text(f"  {event.level}: {printable(event.text)}", style=style)


def _line(head: str, text: str, style: str) -> Text:
    return Text.assemble((head, style), text)
