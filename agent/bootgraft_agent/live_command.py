"""What the console does, as commands in the live system's shell, for people and for scripts."""

import argparse
import contextlib
import fcntl
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from bootgraft_agent import pages, result
from bootgraft_agent.errors import BootgraftError, RefusedError
from bootgraft_agent.plan import Options
from bootgraft_agent.result import Result
from bootgraft_agent.startup import Actions, load_live_actions, require_live_system
from bootgraft_agent.text import printable
from bootgraft_agent.wire import JSON

_LOCK = Path("/run/bootgraft/command.lock")


def run(arguments: argparse.Namespace, actions: Actions | None = None) -> int:
    """Do a command in the live system; give its exit status."""
    if actions is None:
        require_live_system()
        actions, _ = load_live_actions()
    options = _options(arguments)
    as_json: bool = arguments.json
    if arguments.command == "inspect":
        found = actions.inspect(options)
        page = pages.overview(found, options, (), can_leave=False)
        _print(found, page.body, as_json=as_json)
        return 0
    if arguments.command == "plan":
        plan = actions.plan(options)
        _print(plan, [*pages.plan_page(plan).body, *pages.diff_page(plan).body], as_json=as_json)
        return 0
    if arguments.command == "runs":
        listed = actions.list_runs(options)
        runs = listed["runs"]
        names = [str(each["run_id"]) for each in runs] if isinstance(runs, list) else []
        _print(listed, names or ["there is no graft to take back"], as_json=as_json)
        return 0
    with _alone():
        done = _change(arguments, actions, options)
    document = done.to_document()
    words = [f"{done.headline}: {document['reason']}", f"next: {done.next_step}"]
    if as_json or done.is_good:
        _print(document, words, as_json=as_json)
    if not done.is_good:
        sys.stderr.writelines(f"bootgraft-agent: {printable(each)}\n" for each in words)
    return done.exit_status


def _options(arguments: argparse.Namespace) -> Options:
    given: Mapping[str, object] = vars(arguments)
    return Options.from_json(
        {name: str(given[name]) for name in Options.__slots__ if given.get(name) is not None}
    )


def _change(arguments: argparse.Namespace, actions: Actions, options: Options) -> Result:
    """Graft or take back; whatever goes wrong is in the result."""
    record: dict[str, JSON] = {}
    run_id = f"command-{os.urandom(4).hex()}"
    try:
        if arguments.command == "rollback":
            done = actions.rollback(options, arguments.run, _show_progress)
            return result.rolled_back(done)
        plan = actions.plan(options)
        record["plan"] = {key: value for key, value in plan.items() if key != "facts"}
        sha256 = str(plan["plan_sha256"])
        if arguments.plan_sha256 not in (None, sha256):
            raise RefusedError(f"the plan is {sha256} now, not {arguments.plan_sha256}")
        if plan["already_grafted"]:
            return result.already_grafted(record)
        applied = actions.apply(options, sha256, run_id, _show_progress)
    except (BootgraftError, OSError) as error:
        return result.failed(error, record, run_id, words=str)
    return result.grafted(run_id, applied, record)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Let one command change the guest at a time. Raises RefusedError for another."""
    fd = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise RefusedError("another command changes the guest; wait until it is done") from error
    finally:
        os.close(fd)


def _show_progress(text: str, done: int, total: int) -> None:
    if done == total:
        logging.getLogger(__name__).info("%s", printable(text))


def _print(document: Mapping[str, JSON], lines: Iterable[str], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"ok": True, **document}, indent=1) + "\n")
    else:
        sys.stdout.writelines(printable(line) + "\n" for line in lines)
