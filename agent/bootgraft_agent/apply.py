"""Apply: carry out a plan, and read it back. With `rollback` the only writes to a guest.

Old or new, never torn, as GRUB sees it: GRUB reads a disk without replaying its journal. So the
boot volume is opened twice. The first time everything is put beside what GRUB reads (shim,
backups, the new menu under a temporary name); closing the volume empties its journal. The second
time nothing is done but the rename that puts the new menu in the old one's place. Changes to the
root file system, and to others, lie between the two; each path has its old state or its new one.
"""

import contextlib
import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from bootgraft_agent import grub
from bootgraft_agent.effects import Change as ChangeStep
from bootgraft_agent.effects import changes, expected, targets, wanted
from bootgraft_agent.errors import BootgraftError, ChangesLeftError, RefusedError
from bootgraft_agent.files import Tree, WritableTree, parent_of
from bootgraft_agent.guest import MAX_TEXT
from bootgraft_agent.manifest import NAME, RESULT, Change, Manifest, check_run_id
from bootgraft_agent.plan import (
    BootCheck,
    CopyFile,
    CreateFile,
    MakeDirectory,
    MakeLink,
    Move,
    Plan,
    RemoveDirectory,
    Step,
    Target,
    Where,
    WriteFile,
)
from bootgraft_agent.plan_growth import added_names, check_plan_growth, has_temporaries
from bootgraft_agent.rollback import (
    describe_failure,
    read_manifests,
    remove_orphans,
    undo,
    was_cut_off,
)
from bootgraft_agent.spool import Spool
from bootgraft_agent.states import DirectoryState, FileState, LinkState, digest_of, matches
from bootgraft_agent.volumes import Changed, Outcome, Progress, Volumes

_log = logging.getLogger(__name__)
_CHUNK = 256 * 1024


# Apply


def apply_plan(plan: Plan, volumes: Volumes, run_id: str, show: Progress) -> Outcome:
    """Carry out a plan, and read it back.

    A failure takes every change back: RefusedError then says that nothing was changed,
    ChangesLeftError which changes could not be taken back.
    """
    check_run_id(run_id)
    if plan.is_done:
        return Outcome(None, (), verify(plan, (), volumes))
    manifest = _plan_manifest(plan, volumes, run_id)
    _check_growth(plan, volumes)
    left = _find_left(plan, volumes)
    in_boot = left.pop("boot", set())

    def progress(text: str, done: int, total: int) -> None:
        show(plan.masked(text), done, total)

    try:
        with _copied_backups(plan, manifest, volumes) as copies:
            first, *rest = _openings(plan)
            switches = _prepare(plan, manifest, first, in_boot, copies, volumes, progress)
        for opening in rest:
            _carry_out(opening, volumes, progress)
        for where, directories in left.items():
            with volumes.write(where) as tree:
                _tidy(tree, directories)
        for switch in switches:
            _switch(switch, volumes, progress)
        progress("reading everything back", 0, 0)
        verified = verify(plan, manifest.changes, volumes)
    except (OSError, BootgraftError) as error:
        _undo(plan.backups, manifest, volumes, error)
    return Outcome(run_id, tuple(_changed(each, volumes) for each in manifest.changes), verified)


def _changed(change: Change, volumes: Volumes) -> Changed:
    name = f"{volumes.name(change.where)}:/{change.path}"
    return Changed(name, digest_of(change.before), digest_of(change.after))


# The manifest


def _plan_manifest(plan: Plan, volumes: Volumes, run_id: str) -> Manifest:
    with volumes.read("boot") as boot:
        earlier = read_manifests(boot, plan.backups)
    if any(each.run_id == run_id for each in earlier):
        raise RefusedError(f"there is already a run {run_id} on this guest; choose another id")
    return Manifest(
        run_id=run_id,
        sequence=max((each.sequence for each in earlier), default=0) + 1,
        recipe=plan.recipe,
        continues=tuple(dict.fromkeys(_find_continued(plan, earlier, volumes))),
        changes=tuple(_plan_changes(plan, volumes)),
    )


def _find_continued(plan: Plan, earlier: Iterable[Manifest], volumes: Volumes) -> Iterator[str]:
    """Give the earlier runs that this one finishes or mends: those with a recipe in common."""
    alike = [each for each in earlier if recipe_names(each.recipe) & recipe_names(plan.recipe)]
    for manifest in alike:
        if was_cut_off(manifest, plan.backups, volumes):
            yield manifest.run_id
    yield from plan.continues
    if plan.check is None or not alike:
        return
    if all(plan.check.menu not in targets(step) for step in plan.steps):
        yield alike[-1].run_id  # it mends what that run's menu names


def _check_growth(plan: Plan, volumes: Volumes) -> None:
    """Refuse where a directory that GRUB reads may have to grow for what is to be put there."""
    directories = added_names(plan, volumes)
    with volumes.read("boot") as boot:
        unfinished = {each for each in directories if has_temporaries(boot, each)}
    if unfinished:  # what a run that was cut off left there takes room, too
        with volumes.write("boot") as writable:
            _tidy(writable, unfinished)
    check_plan_growth(plan, volumes)


def recipe_names(recipe: str) -> set[str]:
    """Give the names in a plan's text of its recipes, without what identifies them."""
    return {each.partition(":")[0] for each in recipe.split()}


def _plan_changes(plan: Plan, volumes: Volumes) -> Iterator[Change]:
    """Read what is there, which must be what the plan was made on."""
    states: dict[Target, FileState | LinkState | DirectoryState | None] = {}
    for where in _wheres(plan):
        with volumes.read(where) as tree:
            here = [step for _, step in changes(plan) if step.target.where == where]
            for directory in _parents(here):
                if tree.is_directory(directory):
                    tree.names(directory)  # refuses one that cannot be tidied up later
            for _, step in changes(plan):
                for target in targets(step):
                    if target.where == where:
                        _check_unchanged(step, target, tree)
                        states[target] = tree.state(target.path)
    for number, step in changes(plan):
        for target in targets(step):
            found = states[target]
            yield Change(
                where=target.where,
                path=target.path,
                before=found,
                after=wanted(step, target, found),
                backup=f"{number:03}" if isinstance(found, FileState) else None,
                linked=False,  # as long as no backup is made
                is_switch=plan.is_switch(target),
            )


def _wheres(plan: Plan) -> list[Where]:
    return list(dict.fromkeys(each.where for step in plan.steps for each in targets(step)))


def _check_unchanged(step: ChangeStep, target: Target, tree: Tree) -> None:
    found, planned = tree.state(target.path), expected(step, target)
    if matches(found, planned):
        return
    if planned is None:
        raise RefusedError(f"{target} has appeared since the plan was made")
    raise RefusedError(f"{target} has changed since the plan was made; start again")


# Backups


@contextlib.contextmanager
def _copied_backups(
    plan: Plan, manifest: Manifest, volumes: Volumes
) -> Iterator[Mapping[str, Spool]]:
    """Read the old files of other volumes; give them by the names of their backups.

    Never are two volumes open at once: they may be parts of one file system.
    """
    texts = {
        f"{number:03}": step.before for number, step in changes(plan) if isinstance(step, WriteFile)
    }
    with contextlib.ExitStack() as stack:
        copies: dict[str, Spool] = {}
        due = [each for each in manifest.changes if each.backup and not _is_beside(each, volumes)]
        for where in dict.fromkeys(each.where for each in due if each.backup not in texts):
            with volumes.read(where) as tree:
                for change in due:
                    if change.where == where and change.backup and change.backup not in texts:
                        spool = stack.enter_context(Spool.read(tree, change.path))
                        copies[change.backup] = spool
        for name, text in texts.items():
            copies[name] = stack.enter_context(Spool.hold(text))
        yield copies


def _is_beside(change: Change, volumes: Volumes) -> bool:
    """Whether a file is on the file system of the backups."""
    return change.where == "boot" or bool(volumes.boot_prefix and change.where == "root")


def _write_backups(
    manifest: Manifest,
    directory: str,
    copies: Mapping[str, Spool],
    volumes: Volumes,
    boot: WritableTree,
) -> None:
    """Keep the old files, a second name for those of the boot volume and a copy of others; then
    the manifest.
    """
    kept: list[Change] = []
    for change in manifest.changes:
        linked = False
        if change.backup is not None:
            path = f"{directory}/{change.backup}"
            linked = _is_beside(change, volumes) and boot.try_link(change.path, path)
            if not linked:
                _write_copy(change, path, copies, boot)
        kept.append(replace(change, linked=linked))
    content = replace(manifest, changes=tuple(kept)).to_bytes()
    path = f"{directory}/{NAME}"
    boot.rename(boot.write_temporary(path, [content], mode=0o600), path)


def _write_copy(change: Change, path: str, copies: Mapping[str, Spool], boot: WritableTree) -> None:
    with contextlib.ExitStack() as stack:
        spool = copies.get(change.backup or "")
        if spool is None:  # a file of the same volume, which has no hard links
            spool = stack.enter_context(Spool.read(boot, change.path))
        temporary = boot.write_temporary(path, spool.chunks(), mode=0o600)
    if boot.digest(temporary) != digest_of(change.before):
        boot.remove(temporary)
        raise RefusedError(f"/{change.path} has changed since the plan was made; start again")
    boot.rename(temporary, path)


# Carrying out


@dataclass(frozen=True, slots=True)
class _Opening:
    """Steps that are carried out while one volume is open."""

    where: Where
    steps: tuple[ChangeStep, ...]


@dataclass(frozen=True, slots=True)
class _Switch:
    """A step that is carried out alone, but for the file that was made before."""

    step: ChangeStep
    temporary: str | None


def _openings(plan: Plan) -> list[_Opening]:
    """Give the steps but for the switches; the first opening is the boot volume's."""
    steps = [step for _, step in changes(plan) if not _is_switch(plan, step)]
    groups = itertools.groupby(steps, key=lambda step: step.target.where)
    openings = [_Opening(where, tuple(group)) for where, group in groups]
    if not openings or openings[0].where != "boot":
        openings.insert(0, _Opening("boot", ()))
    return openings


def _is_switch(plan: Plan, step: Step) -> bool:
    return any(each.where == "boot" and plan.is_switch(each) for each in targets(step))


def _prepare(
    plan: Plan,
    manifest: Manifest,
    opening: _Opening,
    left: Iterable[str],
    copies: Mapping[str, Spool],
    volumes: Volumes,
    progress: Progress,
) -> list[_Switch]:
    """Put all but the switches' renames on the boot volume; give the switches."""
    directory = f"{plan.backups}/{manifest.run_id}"
    with volumes.write("boot") as boot:
        switched = [step for _, step in changes(plan) if _is_switch(plan, step)]
        _tidy(boot, {parent_of(plan.backups), *_parents((*switched, *opening.steps)), *left})
        if boot.is_directory(plan.backups):
            remove_orphans(plan.backups, boot)
        boot.make_directory(plan.backups)
        boot.make_directory(directory)
        progress(f"backing up to {volumes.name('boot')}:/{directory}", 0, 0)
        _write_backups(manifest, directory, copies, volumes, boot)
        for step in opening.steps:
            _do(step, boot, volumes, progress)
        return [_Switch(step, _make(step, boot, volumes, progress)) for step in switched]


def _carry_out(opening: _Opening, volumes: Volumes, progress: Progress) -> None:
    with volumes.write(opening.where) as tree:
        _tidy(tree, _parents(opening.steps))
        for step in opening.steps:
            _do(step, tree, volumes, progress)


def _switch(switch: _Switch, volumes: Volumes, progress: Progress) -> None:
    """Put the new menu in the old one's place: the one write that GRUB can see."""
    progress(switch.step.describe(), 0, 0)
    with volumes.write("boot") as boot:
        _check_targets(switch.step, boot)
        _put(switch.step, switch.temporary, boot)


def _parents(steps: Iterable[ChangeStep]) -> set[str]:
    found = {parent_of(target.path) for step in steps for target in targets(step)}
    return found | {step.target.path for step in steps if isinstance(step, RemoveDirectory)}


def _find_left(plan: Plan, volumes: Volumes) -> dict[Where, set[str]]:
    """Find, by volume, directories where a rollback that was cut off left something unfinished.

    There may be nothing else to do: it had not come to its first rename there.
    """
    with volumes.read("boot") as boot:
        runs = read_manifests(boot, plan.backups)
    places: dict[Where, set[str]] = {}
    for change in (change for run in runs for change in run.changes):
        places.setdefault(change.where, set()).add(parent_of(change.path))
    left: dict[Where, set[str]] = {}
    for where, directories in places.items():
        try:
            with volumes.read(where) as tree:
                for directory in directories:
                    if has_temporaries(tree, directory):
                        left.setdefault(where, set()).add(directory)
        except RefusedError as error:  # this plan may do without that file system
            _log.warning("cannot look for unfinished files: %s", error)
    return left


def _tidy(tree: WritableTree, directories: Iterable[str]) -> None:
    """Remove what an earlier run that was cut off left unfinished."""
    for directory in sorted(directories):
        if tree.is_directory(directory):
            tree.remove_temporaries(directory)


def _do(step: ChangeStep, tree: WritableTree, volumes: Volumes, progress: Progress) -> None:
    progress(step.describe(), 0, 0)
    _check_targets(step, tree)
    temporary = _make(step, tree, volumes, progress)
    if isinstance(step, CopyFile):  # that took its time
        try:
            _check_targets(step, tree)
        except RefusedError:
            tree.remove(temporary or "")
            raise
    _put(step, temporary, tree)


def _check_targets(step: ChangeStep, tree: Tree) -> None:
    for target in targets(step):
        _check_unchanged(step, target, tree)


def _make(step: ChangeStep, tree: WritableTree, volumes: Volumes, progress: Progress) -> str | None:
    """Make what is to stand at a step's path, whole, under a temporary name beside it."""
    path = step.target.path
    if isinstance(step, CopyFile):
        return _copy(step, tree, volumes, progress)
    if isinstance(step, WriteFile):
        if step.attributes is not None:
            return tree.write_temporary(path, [step.after], attributes=step.attributes)
        return tree.write_temporary(path, [step.after], like=path)
    temporary = None
    if isinstance(step, CreateFile):
        temporary = tree.write_temporary(path, [step.content], attributes=step.attributes)
    elif isinstance(step, MakeLink):
        temporary = tree.make_temporary_link(path, step.text, step.attributes)
    elif isinstance(step, MakeDirectory) and step.before is None:
        temporary = tree.make_temporary_directory(path, step.attributes)
    return temporary


def _put(step: ChangeStep, temporary: str | None, tree: WritableTree) -> None:
    """Do a step's last and one visible change."""
    path = step.target.path
    if temporary is not None:
        tree.rename(temporary, path)
    elif isinstance(step, MakeDirectory):
        tree.set_directory_attributes(path, step.attributes)
    elif isinstance(step, Move):
        tree.move(path, step.to.path)
    elif isinstance(step, RemoveDirectory):
        tree.remove_directory(path)
    else:
        tree.remove(path)


def _copy(step: CopyFile, tree: WritableTree, volumes: Volumes, progress: Progress) -> str:
    def chunks(fd: int) -> Iterator[bytes]:
        done = 0
        while chunk := os.read(fd, _CHUNK):
            done += len(chunk)
            progress(step.describe(), done, step.size)
            yield chunk

    with volumes.payload() as payload, payload.open_file(step.source) as source:
        temporary = tree.write_temporary(
            step.target.path, chunks(source), attributes=step.attributes
        )
    if tree.digest(temporary) != step.sha256:
        tree.remove(temporary)
        raise RefusedError(f"{step.source} of the payload changed while it was copied")
    return temporary


def _undo(backups: str, manifest: Manifest, volumes: Volumes, error: Exception) -> None:
    """Take back what an apply did before it failed; always raises."""
    reason = describe_failure(error)
    _log.warning("the graft failed; taking everything back")
    try:
        undo(backups, manifest, volumes)
    except (OSError, BootgraftError) as left:
        raise ChangesLeftError(
            f"the graft failed: {reason}; and not everything could be taken back:"
            f" {describe_failure(left)}. Repair the file system, then roll {manifest.run_id} back;"
            f" backups lie in {volumes.name('boot')}:/{backups}/{manifest.run_id}"
        ) from error
    raise RefusedError(f"the graft failed and was taken back whole: {reason}") from error


def keep_result(backups: str, volumes: Volumes, run_id: str, content: bytes) -> bool:
    """Keep a run's result beside its backups; of a run that has left none nothing is kept."""
    directory = f"{backups}/{check_run_id(run_id)}"
    with volumes.read("boot") as boot:
        if not boot.is_file(f"{directory}/{NAME}"):
            return False
    path = f"{directory}/{RESULT}"
    with volumes.write("boot") as writable:
        writable.rename(writable.write_temporary(path, [content], mode=0o600), path)
    return True


# Verify


def verify(plan: Plan, done: Iterable[Change], volumes: Volumes) -> tuple[str, ...]:
    """Read back what the plan promised, from a fresh look at the disk; say each thing found.

    Raises RefusedError for the first thing that is not as it should be.
    """
    by_volume: dict[Where, list[Change]] = {"boot": []} if plan.check else {}
    for change in done:
        by_volume.setdefault(change.where, []).append(change)
    found: list[str] = []
    for where in sorted(by_volume, key=lambda each: each != "boot"):
        with volumes.read(where) as tree:
            found += _verify_changes(by_volume[where], volumes.name(where), tree)
            if where == "boot" and plan.check is not None:
                found += _verify_menu(plan.check, tree)
    return tuple(found)


def _verify_changes(done: Iterable[Change], volume: str, tree: Tree) -> Iterator[str]:
    for change in done:
        name = f"{volume}:/{change.path}"
        if not matches(tree.state(change.path), change.after):
            raise RefusedError(f"{name} did not read back as it was written")
        if isinstance(change.after, FileState):
            yield f"{name} has SHA-256 {change.after.sha256}"
        else:
            yield f"{name} is {_in_words(change)}"


def _in_words(change: Change) -> str:
    if isinstance(change.after, LinkState):
        return f"a link to {change.after.text}"
    return "a directory" if change.after is not None else "gone"


def _verify_menu(check: BootCheck, boot: Tree) -> Iterator[str]:
    menu = grub.parse_menu(boot.read(check.menu.path, MAX_TEXT))
    if menu.default != check.entry or check.entry >= len(menu.entries):
        raise RefusedError(f"{check.menu}: the default is not the new entry")
    yield f"{check.menu}: entry {menu.default} is the default"
    for target in check.files:
        if not boot.is_file(target.path):
            raise RefusedError(f"{target}, which the new entry names, is not there")
        yield f"{target} is there"
