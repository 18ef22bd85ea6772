"""What each kind of step expects to find, and what it leaves. Pure."""

from collections.abc import Iterator

from bootgraft_agent.plan import (
    CopyFile,
    CreateFile,
    MakeDirectory,
    MakeLink,
    Move,
    Plan,
    Remove,
    RemoveDirectory,
    ReplayJournal,
    Step,
    Target,
    WriteFile,
    sha256,
)
from bootgraft_agent.states import DirectoryState, FileState, LinkState, State

Change = (
    CopyFile | WriteFile | CreateFile | MakeLink | MakeDirectory | Remove | RemoveDirectory | Move
)


def changes(plan: Plan) -> Iterator[tuple[int, Change]]:
    """Give the steps that change files, with their numbers in the plan, from 0."""
    for number, step in enumerate(plan.steps):
        if not isinstance(step, ReplayJournal):
            yield number, step


def targets(step: Step) -> tuple[Target, ...]:
    """Give the paths that a step changes."""
    if isinstance(step, ReplayJournal):
        return ()
    return (step.target, step.to) if isinstance(step, Move) else (step.target,)


def expected(step: Change, target: Target) -> State:
    """Give what a step was planned on at one of its paths."""
    if isinstance(step, WriteFile):
        return FileState(sha256(step.before), len(step.before), None)
    if isinstance(step, Move) and target == step.to:
        return None
    return step.before


def wanted(step: Change, target: Target, found: State) -> State:
    """Give what is at one of a step's paths afterwards; `found` is what was there before."""
    if isinstance(step, CopyFile):
        return FileState(step.sha256, step.size, step.attributes)
    if isinstance(step, WriteFile):
        kept = found.attributes if isinstance(found, FileState) else None
        return FileState(sha256(step.after), len(step.after), step.attributes or kept)
    if isinstance(step, CreateFile):
        return FileState(sha256(step.content), len(step.content), step.attributes)
    if isinstance(step, MakeLink):
        return LinkState(step.text, step.attributes)
    if isinstance(step, MakeDirectory):
        return DirectoryState(step.attributes)
    return step.before if isinstance(step, Move) and target == step.to else None
