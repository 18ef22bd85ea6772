"""Apply: carry out a plan, and read it back. With `rollback` the only writes to a guest.

Old or new, never torn, as GRUB sees it: GRUB reads a disk without replaying its journal. So the
boot volume is opened twice. The first time everything is put beside what GRUB reads (shim,
backups, the new menu under a temporary name); closing the volume empties its journal. The second
time nothing is done but the rename that puts the new menu in the old one's place. Changes to the
root file system lie between the two.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import replace

from bootgraft_agent import grub
from bootgraft_agent.directory_growth import TEMPORARY_NAME, check_growth
from bootgraft_agent.errors import BootgraftError, ChangesLeftError, RefusedError
from bootgraft_agent.files import TEMPORARY, Tree, WritableTree, parent_of
from bootgraft_agent.guest import MAX_TEXT
from bootgraft_agent.manifest import NAME, RESULT, Change, Manifest, check_run_id
from bootgraft_agent.plan import CopyFile, Plan, Target, Where, WriteFile, sha256
from bootgraft_agent.rollback import (
    describe_failure,
    read_manifests,
    remove_orphans,
    undo,
    was_cut_off,
)
from bootgraft_agent.volumes import Changed, Outcome, Progress, Volumes

_log = logging.getLogger(__name__)
_CHUNK = 256 * 1024


# Apply


def apply_plan(plan: Plan, volumes: Volumes, run_id: str, progress: Progress) -> Outcome:
    """Carry out a plan, and read it back.

    A failure takes every change back: RefusedError then says that nothing was changed,
    ChangesLeftError which changes could not be taken back.
    """
    check_run_id(run_id)
    if plan.is_done:
        return Outcome(None, (), verify(plan, volumes))
    manifest = _plan_manifest(plan, volumes, run_id)
    _check_growth(plan, volumes)
    try:
        menu = _prepare(plan, manifest, volumes, progress)
        _write_root(plan, volumes, progress)
        _switch_menu(plan, menu, volumes, progress)
        progress("reading everything back", 0, 0)
        verified = verify(plan, volumes)
    except (OSError, BootgraftError) as error:
        _undo(plan.backups, manifest, volumes, error)
    changes = [_changed(change, volumes) for change in manifest.changes]
    return Outcome(run_id, tuple(changes), verified)


def _changed(change: Change, volumes: Volumes) -> Changed:
    return Changed(f"{volumes.name(change.where)}:/{change.path}", change.before, change.after)


def _plan_manifest(plan: Plan, volumes: Volumes, run_id: str) -> Manifest:
    with volumes.read("boot") as boot:
        earlier = read_manifests(boot, plan.backups)
        if any(each.run_id == run_id for each in earlier):
            raise RefusedError(f"there is already a run {run_id} on this guest; choose another id")
        continued = [each.run_id for each in earlier if was_cut_off(each, plan.backups, boot)]
    if earlier and all(step.target != plan.check.menu for step in _writes(plan)):
        continued.append(earlier[-1].run_id)  # it mends what that run's menu names
    times = _root_times(plan, volumes)
    return Manifest(
        run_id=run_id,
        sequence=max((each.sequence for each in earlier), default=0) + 1,
        recipe=plan.recipe,
        continues=tuple(dict.fromkeys(continued)),
        changes=tuple(_plan_changes(plan, times)),
    )


def _check_growth(plan: Plan, volumes: Volumes) -> None:
    """Refuse where a directory that GRUB reads may have to grow for what is to be put there."""
    menu = parent_of(plan.check.menu.path)
    names = {parent_of(plan.backups): [plan.backups.rpartition("/")[2]]}
    for step in plan.steps:
        if isinstance(step, CopyFile):
            directory, _, name = step.target.path.rpartition("/")
            names.setdefault(directory, []).append(name)
    names.setdefault(menu, []).append(TEMPORARY_NAME)
    with volumes.read("boot") as boot:
        for directory, added in names.items():
            shown = f"{volumes.name('boot')}:/{directory}"
            if boot.is_directory(directory):
                check_growth(boot, directory, [*added, TEMPORARY_NAME], shown)


def _root_times(plan: Plan, volumes: Volumes) -> dict[str, int]:
    writes = [step for step in _writes(plan) if step.target.where == "root"]
    if not writes:
        return {}
    with volumes.read("root") as root:
        return {step.target.path: root.lstat(step.target.path).st_mtime_ns for step in writes}


def _plan_changes(plan: Plan, times: dict[str, int]) -> Iterator[Change]:
    for number, step in enumerate(plan.steps):
        if isinstance(step, CopyFile):
            yield Change(
                where="boot",
                path=step.target.path,
                before=None,
                after=step.sha256,
                backup=None,
                linked=False,
                mtime_ns=None,
                is_menu=False,
            )
        elif isinstance(step, WriteFile):
            yield Change(
                where=step.target.where,
                path=step.target.path,
                before=sha256(step.before),
                after=sha256(step.after),
                backup=f"{number:03}",
                linked=False,  # as long as no backup is made
                mtime_ns=times.get(step.target.path) if step.target.where == "root" else None,
                is_menu=step.target == plan.check.menu,
            )


def _writes(plan: Plan) -> Iterator[WriteFile]:
    return (step for step in plan.steps if isinstance(step, WriteFile))


def _prepare(
    plan: Plan, manifest: Manifest, volumes: Volumes, progress: Progress
) -> tuple[str, str] | None:
    """Put all but the menu's rename on the boot volume; give the menu's temporary and own path."""
    directory = f"{plan.backups}/{manifest.run_id}"
    with volumes.write("boot") as boot:
        for parent in {parent_of(plan.backups), parent_of(plan.check.menu.path)}:
            boot.remove_temporaries(parent)
        if boot.is_directory(plan.backups):
            remove_orphans(plan.backups, boot)
        boot.make_directory(plan.backups)
        boot.make_directory(directory)
        progress(f"backing up to {volumes.name('boot')}:/{directory}", 0, 0)
        _write_backups(plan, manifest, directory, boot)
        for step in plan.steps:
            if isinstance(step, CopyFile):
                _copy(step, boot, volumes, progress)
        menu = None
        for write in _writes(plan):
            if write.target == plan.check.menu:
                menu = boot.write_temporary(
                    write.target.path, [write.after], like=write.target.path
                )
            elif write.target.where == "boot":
                _write(write, boot, progress)
    return (menu, plan.check.menu.path) if menu else None


def _write_backups(plan: Plan, manifest: Manifest, directory: str, boot: WritableTree) -> None:
    """Keep the old files, a second name for those of the boot volume and a copy of others; then
    the manifest.
    """
    before = {(step.target.where, step.target.path): step.before for step in _writes(plan)}
    changes: list[Change] = []
    for change in manifest.changes:
        linked = False
        if change.backup is not None:
            path = f"{directory}/{change.backup}"
            linked = change.where == "boot" and boot.try_link(change.path, path)
            if not linked:
                content = before[change.where, change.path]
                boot.rename(boot.write_temporary(path, [content], mode=0o600), path)
        changes.append(replace(change, linked=linked))
    content = replace(manifest, changes=tuple(changes)).to_bytes()
    path = f"{directory}/{NAME}"
    boot.rename(boot.write_temporary(path, [content], mode=0o600), path)


def _copy(step: CopyFile, boot: WritableTree, volumes: Volumes, progress: Progress) -> None:
    def chunks(fd: int) -> Iterator[bytes]:
        done = 0
        while chunk := os.read(fd, _CHUNK):
            done += len(chunk)
            progress(step.describe(), done, step.size)
            yield chunk

    with volumes.payload() as payload, payload.open_file(step.source) as source:
        temporary = boot.write_temporary(step.target.path, chunks(source))
    if boot.digest(temporary) != step.sha256:
        boot.remove(temporary)
        raise RefusedError(f"{step.source} of the payload changed while it was copied")
    if boot.digest(step.target.path) is not None:
        boot.remove(temporary)
        raise RefusedError(f"{step.target} has appeared since the plan was made")
    boot.rename(temporary, step.target.path)


def _write(step: WriteFile, tree: WritableTree, progress: Progress) -> None:
    progress(step.describe(), 0, 0)
    _check_unchanged(step, tree)
    path = step.target.path
    tree.rename(tree.write_temporary(path, [step.after], like=path), path)


def _check_unchanged(step: WriteFile, tree: Tree) -> None:
    path = step.target.path
    # Of a link only its target would be what the plan saw, and the link would be replaced.
    if tree.digest(path) != sha256(step.before) or tree.resolve(path) != path:
        raise RefusedError(f"{step.target} has changed since the plan was made; start again")


def _write_root(plan: Plan, volumes: Volumes, progress: Progress) -> None:
    writes = [step for step in _writes(plan) if step.target.where == "root"]
    places = {parent_of(step.target.path) for step in writes} | _left_in_root(plan, volumes)
    if not places:
        return
    with volumes.write("root") as root:
        for place in sorted(places):
            root.remove_temporaries(place)
        for step in writes:
            _write(step, root, progress)


def _left_in_root(plan: Plan, volumes: Volumes) -> set[str]:
    """Give the directories in which a rollback that was cut off has left an unfinished file.

    There may be nothing else to write there: it had not come to its first rename.
    """
    with volumes.read("boot") as boot:
        runs = read_manifests(boot, plan.backups)
    places = {
        parent_of(change.path) for run in runs for change in run.changes if change.where == "root"
    }
    if not places:
        return set()
    try:
        with volumes.read("root") as root:
            return {
                place
                for place in places
                if root.is_directory(place)
                and any(name.startswith(TEMPORARY) for name in root.names(place))
            }
    except RefusedError as error:  # this plan may do without that file system
        _log.warning("cannot look for unfinished files: %s", error)
        return set()


def _switch_menu(
    plan: Plan, menu: tuple[str, str] | None, volumes: Volumes, progress: Progress
) -> None:
    """Put the new menu in the old one's place: the one write that GRUB can see."""
    if menu is None:
        return
    step = next(each for each in _writes(plan) if each.target == plan.check.menu)
    progress(step.describe(), 0, 0)
    with volumes.write("boot") as boot:
        _check_unchanged(step, boot)
        boot.rename(*menu)


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


def verify(plan: Plan, volumes: Volumes) -> tuple[str, ...]:
    """Read back what the plan promised, from a fresh look at the disk; say each thing found.

    Raises RefusedError for the first thing that is not as it should be.
    """
    with volumes.read("boot") as boot:
        found = [*_verify_files(plan, "boot", boot), *_verify_menu(plan, boot)]
    if any(_wanted(plan, "root")):
        with volumes.read("root") as root:
            found += _verify_files(plan, "root", root)
    return tuple(found)


def _verify_files(plan: Plan, where: Where, tree: Tree) -> Iterator[str]:
    for target, digest in _wanted(plan, where):
        if tree.digest(target.path) != digest:
            raise RefusedError(f"{target} did not read back as it was written")
        yield f"{target} has SHA-256 {digest}"


def _wanted(plan: Plan, where: Where) -> Iterator[tuple[Target, str]]:
    for step in plan.steps:
        if isinstance(step, CopyFile | WriteFile) and step.target.where == where:
            yield step.target, step.sha256 if isinstance(step, CopyFile) else sha256(step.after)


def _verify_menu(plan: Plan, boot: Tree) -> Iterator[str]:
    menu = grub.parse_menu(boot.read(plan.check.menu.path, MAX_TEXT))
    if menu.default != plan.check.entry or plan.check.entry >= len(menu.entries):
        raise RefusedError(f"{plan.check.menu}: the default is not the new entry")
    yield f"{plan.check.menu}: entry {menu.default} is the default"
    for target in plan.check.files:
        if not boot.is_file(target.path):
            raise RefusedError(f"{target}, which the new entry names, is not there")
        yield f"{target} is there"
