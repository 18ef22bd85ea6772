"""`bootgraft doctor hyperv://HOST`: is a Hyper-V host fit for bootgraft, and how does it behave?"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import click
from rich.console import Console

from bootgraft_agent.wire import JSON
from bootgraft_host.hyperv.doctor import Check, examine_host
from bootgraft_host.hyperv.hosts import THIS_COMPUTER, open_runner, read_settings
from bootgraft_host.hyperv.pipe_names import pipe_url, relay_url
from bootgraft_host.hyperv.runner import HostError, Runner
from bootgraft_host.hyperv.scratch import find_leftovers, removal_command
from bootgraft_host.hyperv.settle import Settled, settle
from bootgraft_host.hyperv.targets import SCHEME, parse_target
from bootgraft_host.link import Link
from bootgraft_host.options import find_live_iso
from bootgraft_host.runs import encode_document
from bootgraft_host.text import printable

DOCUMENT_FORMAT = 1
NOTICE = (
    "the trials take about five minutes, on a machine that is made for them and removed afterwards"
)

OpenRunner = Callable[[str], Runner]


class Consoles(Protocol):
    """What is used of the command line's settings."""

    @property
    def out(self) -> Console:
        """For results."""

    @property
    def err(self) -> Console:
        """For what happens meanwhile."""


@click.command(
    epilog="""\b
Exit status:
  0  all is well, and with --settle every question is settled
  1  otherwise
  2  invalid request
"""
)
@click.argument("host", metavar="hyperv://HOST")
@click.option(
    "--settle",
    "with_trials",
    is_flag=True,
    help="Also settle how this Hyper-V behaves, on a scratch machine; takes minutes.",
)
@click.option(
    "--iso",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The live ISO for --settle; as for run, it need not be named.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the result as one JSON document on stdout."
)
@click.pass_obj
def doctor(
    consoles: Consoles, /, host: str, with_trials: bool, iso: Path | None, as_json: bool
) -> int:
    """Check a Hyper-V host, and say how to mend what is wrong; hyperv://. is this computer."""
    return examine(consoles, parse_host(host), with_trials, iso, open_runner, as_json=as_json)


def examine(
    consoles: Consoles,
    host: str,
    with_trials: bool,
    iso: Path | None,
    open_: OpenRunner,
    *,
    as_json: bool,
) -> int:
    """Check a host, print what came out, give the exit status."""
    base = read_settings(host).upload_folder
    checks: list[Check] = []
    settled: Settled | None = None
    with closing(open_(host)) as runner:
        for check in examine_host(runner, base):
            checks.append(check)
            if not as_json:
                _print_check(check, consoles.out)
        leftovers = _find_leftovers(runner, checks)
        for name in leftovers:
            command = removal_command(name, base)
            consoles.err.print(f"left by an earlier --settle: {printable(command)}")
        if with_trials and checks[0].verdict == "ok":
            settled = _settle(runner, base, iso, consoles.err)
    if as_json:
        document = to_document(host, checks, settled, leftovers)
        consoles.out.print(encode_document(document).decode("ascii"), end="")
    elif settled is not None:
        _print_findings(settled, consoles.out)
    return exit_status(checks, settled, with_trials=with_trials)


def parse_host(target: str) -> str:
    """Read HOST out of hyperv://HOST. Raises UsageError, ConfigurationError."""
    host, _, vm = target[len(SCHEME) :].partition("/")
    if not target.lower().startswith(SCHEME) or not host:
        raise click.UsageError(f"{target!r} names no Hyper-V host: {SCHEME}HOST is expected")
    if vm:
        raise click.UsageError(f"{target!r} names a machine; {SCHEME}{host} is its host")
    return parse_target(f"{SCHEME}{host}/any").host


def exit_status(checks: Sequence[Check], settled: Settled | None, *, with_trials: bool) -> int:
    """Give 0 where nothing is wrong, unknown or left."""
    if any(check.verdict != "ok" for check in checks):
        return 1
    if settled is None:
        return int(with_trials)
    done = settled.left is None and all(finding.settled for finding in settled.findings)
    return 0 if done else 1


def to_document(
    host: str, checks: Sequence[Check], settled: Settled | None, leftovers: Sequence[str]
) -> Mapping[str, JSON]:
    """Give all that was found as JSON."""
    return {
        "format": DOCUMENT_FORMAT,
        "host": host,
        "checks": [{**asdict(check), "mend": list(check.mend)} for check in checks],
        "findings": [] if settled is None else [asdict(each) for each in settled.findings],
        "left": None if settled is None else settled.left,
        "leftovers": list(leftovers),
    }


def _find_leftovers(runner: Runner, checks: Sequence[Check]) -> list[str]:
    if not any(check.topic == "virtual machines" and check.verdict == "ok" for check in checks):
        return []
    try:
        return find_leftovers(runner)
    except HostError:
        return []  # the checks have just said that machines can be listed


def _settle(runner: Runner, base: str | None, iso: Path | None, err: Console) -> Settled:
    err.print(NOTICE)
    return settle(
        runner,
        base,
        find_live_iso(iso, os.environ),
        lambda pipe: open_line(runner.host, pipe),
        lambda text: err.print(printable(text)),
    )


def open_line(host: str, pipe: str) -> Link:
    """Connect to a pipe of a host's, again and again until it is closed."""
    url = pipe_url(pipe) if host == THIS_COMPUTER else relay_url(host, pipe)
    return Link(url, may_connect=lambda: True)


def _print_check(check: Check, out: Console) -> None:
    out.print(f"{check.verdict:<10}{check.topic}: {printable(check.text)}")
    for line in check.mend:
        out.print(f"{'':<12}{printable(line)}")


def _print_findings(settled: Settled, out: Console) -> None:
    for finding in settled.findings:
        out.print(f"{finding.letter:<4}{finding.question}")
        answer = finding.answer if finding.settled else f"not settled: {finding.answer}"
        out.print(f"{'':<4}{printable(answer)}")
