"""`bootgraft-agent tree`: grafts and recipes on file systems that are mounted already."""

import argparse
import json
import logging
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from bootgraft_agent import tree
from bootgraft_agent.errors import InvalidRequestError
from bootgraft_agent.plan import Options
from bootgraft_agent.recipe_file.given import Given, parse_given
from bootgraft_agent.text import printable
from bootgraft_agent.tree_recipes import choose
from bootgraft_agent.view import (
    outcome_json,
    outcome_lines,
    plan_json,
    plan_lines,
    warning_lines,
)
from bootgraft_agent.wire import JSON


def run(arguments: argparse.Namespace) -> int:
    """Graft, or take a graft back; give the exit status."""
    others = tuple(arguments.mount)
    trees = tree.Trees(arguments.root, arguments.boot, arguments.payload, others)
    trees.check()
    if arguments.run is not None and not arguments.rollback:
        raise InvalidRequestError("--run goes with --rollback: it names the run to take back")
    if arguments.rollback:
        if arguments.recipe:
            raise InvalidRequestError("--recipe does not go with --rollback; --run names a run")
        outcome = tree.undo(trees, arguments.run, _show_progress)
        _print(arguments, outcome_json(outcome), outcome_lines(outcome, "restored"))
        return 0
    options = Options(
        kernel=arguments.kernel,
        shim=arguments.shim,
        shim_args=arguments.shim_args,
        guest_disk=arguments.guest_disk,
    )
    given = [*map(parse_given, arguments.set), *map(_read_given, arguments.set_file)]
    chosen = choose(arguments.recipe, given, arguments.payload)
    trees = replace(trees, recipe_folders=chosen.folders)
    plan = tree.make_plan(trees, arguments.grub_root, options, chosen.requests)
    if arguments.dry_run:
        _print(arguments, plan_json(plan), plan_lines(plan))
        return 0
    outcome = tree.graft(trees, plan, _show_progress)
    if not outcome.changes:
        lines: Iterable[str] = plan_lines(plan)
    else:
        lines = [
            *(plan.masked(each) for each in outcome_lines(outcome, "changed")),
            *warning_lines([plan.masked(each) for each in plan.warnings]),
        ]
    _print(arguments, plan_json(plan) | outcome_json(outcome, plan), lines)
    return 0


def _read_given(text: str) -> Given:
    """Read [RECIPE.]NAME=FILE, without the file's last line end. Raises InvalidRequestError."""
    given = parse_given(text)
    try:
        value = Path(given.value).read_text("utf-8")
    except (OSError, ValueError) as error:
        raise InvalidRequestError(f"--set-file {given.value} cannot be read: {error}") from error
    return replace(given, value=value.removesuffix("\n").removesuffix("\r"))


def _show_progress(text: str, done: int, total: int) -> None:
    if done == total:
        logging.getLogger(__name__).info("%s", printable(text))


def _print(
    arguments: argparse.Namespace, document: Mapping[str, JSON], lines: Iterable[str]
) -> None:
    if arguments.json:
        sys.stdout.write(json.dumps({"ok": True, **document}, indent=1) + "\n")
    else:
        sys.stdout.writelines(printable(line) + "\n" for line in lines)
