"""The only writes to a guest: apply a plan, read it back, take it back.

Old or new, never torn, as GRUB sees it: GRUB reads a disk without replaying its journal. So the
boot volume is opened twice. The first time everything is put beside what GRUB reads (shim,
backups, the new menu under a temporary name); closing the volume empties its journal. The second
time nothing is done but the rename that puts the new menu in the old one's place. Changes to the
root file system lie between the two. A rollback goes the same way back.
"""

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from bootgraft_agent import grub
from bootgraft_agent.errors import BootgraftError, ChangesLeftError, RefusedError
from bootgraft_agent.files import Tree, WritableTree, parent_of, temporary_beside
from bootgraft_agent.guest import MAX_TEXT
from bootgraft_agent.manifest import MAX_SIZE, NAME, Change, Manifest, check_run_id, parse_manifest
from bootgraft_agent.plan import CopyFile, Plan, Target, Where, WriteFile, sha256

_log = logging.getLogger(__name__)
_CHUNK = 256 * 1024
_BACKUP = re.compile(r"\d{3}")


class Volumes(Protocol):
    """The guest's file systems and the payload, opened and closed as the phases need them."""

    def read(self, where: Where) -> AbstractContextManager[Tree]:
        """Open a volume for reading, fresh from the disk. Raises RefusedError without one."""

    def write(self, where: Where) -> AbstractContextManager[WritableTree]:
        """Open a volume for writing; when it closes, all is on the disk and the journal empty."""

    def payload(self) -> AbstractContextManager[Tree]:
        """Open the payload for reading."""

    def name(self, where: Where) -> str:
        """Name a volume for people: "hda1"."""


Progress = Callable[[str, int, int], None]  # text; bytes done and in all, 0 where they say nothing


@dataclass(frozen=True, slots=True)
class Changed:
    """One file that was changed; SHA-256 before and after, None where there is no file."""

    target: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, in order, and what was read back from the disk."""

    run_id: str | None
    changes: tuple[Changed, ...]
    verified: tuple[str, ...]
    warnings: tuple[str, ...] = ()


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
        unfinished = [each.run_id for each in earlier if not _is_complete(each, boot)]
    times = _root_times(plan, volumes)
    return Manifest(
        run_id=run_id,
        sequence=max((each.sequence for each in earlier), default=0) + 1,
        recipe=plan.recipe,
        continues=tuple(unfinished),
        changes=tuple(_plan_changes(plan, times)),
    )


def _root_times(plan: Plan, volumes: Volumes) -> dict[str, int]:
    writes = [step for step in _writes(plan) if step.target.where == "root"]
    if not writes:
        return {}
    with volumes.read("root") as root:
        return {step.target.path: root.lstat(step.target.path).st_mtime_ns for step in writes}


def _plan_changes(plan: Plan, times: dict[str, int]) -> Iterator[Change]:
    for number, step in enumerate(plan.steps):
        if isinstance(step, CopyFile):
            yield Change("boot", step.target.path, None, step.sha256, None, None, is_menu=False)
        elif isinstance(step, WriteFile):
            yield Change(
                where=step.target.where,
                path=step.target.path,
                before=sha256(step.before),
                after=sha256(step.after),
                backup=f"{number:03}",  # as _BACKUP has it
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
            _remove_orphans(plan.backups, boot)
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
    """Keep the old files: a second name for those of the boot volume, a copy of others."""
    backups = {(each.where, each.path): each.backup for each in manifest.changes}
    for step in _writes(plan):
        path = f"{directory}/{backups[step.target.where, step.target.path]}"
        if step.target.where == "boot" and _link(boot, step.target.path, path):
            continue
        temporary = boot.write_temporary(path, [step.before], mode=0o600)
        boot.rename(temporary, path)
    path = f"{directory}/{NAME}"
    boot.rename(boot.write_temporary(path, [manifest.to_bytes()], mode=0o600), path)


def _link(boot: WritableTree, path: str, to: str) -> bool:
    """Try a hard link; False where the file system has none."""
    try:
        boot.link(path, to)
    except PermissionError:
        return False
    return True


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
    if tree.digest(step.target.path) != sha256(step.before):
        raise RefusedError(f"{step.target} has changed since the plan was made; start again")


def _write_root(plan: Plan, volumes: Volumes, progress: Progress) -> None:
    writes = [step for step in _writes(plan) if step.target.where == "root"]
    if not writes:
        return
    with volumes.write("root") as root:
        for step in writes:
            root.remove_temporaries(parent_of(step.target.path))
            _write(step, root, progress)


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
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    _log.warning("the graft failed (%s); taking everything back", reason)
    try:
        _restore(backups, manifest, volumes, lambda *_: None)
    except (OSError, BootgraftError) as left:
        raise ChangesLeftError(
            f"the graft failed: {reason}; and not everything could be taken back: {left}."
            f" Repair the file system, then run the rollback of {manifest.run_id}; backups lie in"
            f" {volumes.name('boot')}:/{backups}/{manifest.run_id}"
        ) from error
    raise RefusedError(f"the graft failed and was taken back whole: {reason}") from error


# Verify


def verify(plan: Plan, volumes: Volumes) -> tuple[str, ...]:
    """Read back what the plan promised, from a fresh look at the disk; say each thing found.

    Raises RefusedError for the first thing that is not as it should be.
    """
    found: list[str] = []
    for where in ("boot", "root"):
        wanted = list(_wanted(plan, where))
        if not wanted:
            continue
        with volumes.read(where) as tree:
            for target, digest in wanted:
                if tree.digest(target.path) != digest:
                    raise RefusedError(f"{target} did not read back as it was written")
                found.append(f"{target} has SHA-256 {digest}")
    with volumes.read("boot") as boot:
        found.extend(_verify_menu(plan, boot))
    return tuple(found)


def _wanted(plan: Plan, where: str) -> Iterator[tuple[Target, str]]:
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


# Roll back


def read_manifests(boot: Tree, backups: str) -> tuple[Manifest, ...]:
    """Read the manifests of all runs on a guest, oldest first."""
    if not boot.is_directory(backups):
        return ()
    paths = [f"{backups}/{name}/{NAME}" for name in boot.names(backups)]
    manifests = [parse_manifest(boot.read(path, MAX_SIZE)) for path in paths if boot.is_file(path)]
    return tuple(sorted(manifests, key=lambda each: each.sequence))


def _is_complete(manifest: Manifest, boot: Tree) -> bool:
    """Whether a run came to its end: its menu, the last thing written, is the new one."""
    return all(
        boot.digest(each.path) == each.after for each in manifest.changes if each.where == "boot"
    )


def roll_back(backups: str, volumes: Volumes, run_id: str | None, progress: Progress) -> Outcome:
    """Take a run back, by default the latest, with the cut-off runs that it finished.

    Every file becomes what it was, byte for byte. Raises RefusedError, with nothing changed, where
    a file has been changed since by somebody else.
    """
    with volumes.read("boot") as boot:
        manifests = {each.run_id: each for each in read_manifests(boot, backups)}
        has_orphans = not manifests and boot.is_directory(backups)
    if has_orphans:
        with volumes.write("boot") as writable:
            _remove_orphans(backups, writable)
    if not manifests and run_id is None:
        return Outcome(None, (), (), ("there is no graft to roll back",))
    latest = list(manifests.values())[-1].run_id if manifests else None
    chosen = run_id or latest
    if chosen is None or chosen not in manifests:
        listed = ", ".join(manifests) or "none"
        raise RefusedError(f"there is no run {chosen} on this guest; there are: {listed}")
    order = [chosen, *reversed(manifests[chosen].continues)]
    changes: list[Changed] = []
    for each in order:
        if each in manifests:
            _check_restorable(manifests[each], volumes)
            changes.extend(_restore(backups, manifests[each], volumes, progress))
    return Outcome(chosen, tuple(changes), ())


def _check_restorable(manifest: Manifest, volumes: Volumes) -> None:
    """Refuse a rollback over changes that somebody else made."""
    for where in ("boot", "root"):
        wanted = [each for each in manifest.changes if each.where == where]
        if not wanted:
            continue
        with volumes.read(where) as tree:
            for change in wanted:
                if tree.digest(change.path) not in {change.before, change.after}:
                    raise RefusedError(
                        f"{volumes.name(where)}:/{change.path} has been changed since run"
                        f" {manifest.run_id}, so the rollback would lose that; nothing was changed."
                        " Undo that change first, or restore the file from the backups by hand"
                    )


def _restore(
    backups: str, manifest: Manifest, volumes: Volumes, progress: Progress
) -> list[Changed]:
    """Put the old files back: the menu first, then the root file system, then the rest."""
    directory = f"{backups}/{manifest.run_id}"
    with volumes.read("boot") as boot:
        if not boot.is_directory(backups):
            return []  # the run did not come to its first write
        changed = [
            each for each in manifest.changes if each.where == "boot" and _is_after(each, boot)
        ]
        copies = _read_copies(manifest, directory, boot)
    done = _restore_menu([each for each in changed if each.is_menu], directory, volumes, progress)
    done += _restore_root(manifest, copies, volumes, progress)
    with volumes.write("boot") as boot:
        for change in reversed(changed):
            if not change.is_menu:
                progress(f"restoring {volumes.name('boot')}:/{change.path}", 0, 0)
                _restore_file(change, directory, boot)
                done.append(_reversed(change, volumes))
        for parent in {parent_of(each.path) for each in manifest.changes if each.where == "boot"}:
            boot.remove_temporaries(parent)
        _remove_backups(backups, manifest, boot)
    return done


def _is_after(change: Change, tree: Tree) -> bool:
    return change.before != change.after and tree.digest(change.path) == change.after


def _reversed(change: Change, volumes: Volumes) -> Changed:
    return Changed(f"{volumes.name(change.where)}:/{change.path}", change.after, change.before)


def _read_copies(manifest: Manifest, directory: str, boot: Tree) -> dict[str, bytes]:
    """Read the backups of the root file system's files, as far as the run came to write them."""
    copies: dict[str, bytes] = {}
    for change in manifest.changes:
        path = f"{directory}/{change.backup}"
        if change.where == "root" and change.backup is not None and boot.is_file(path):
            copies[change.path] = boot.read(path, MAX_TEXT)
            if sha256(copies[change.path]) != change.before:
                raise RefusedError(f"/{path} is not the backup that it should be")
    return copies


def _restore_menu(
    changed: Iterable[Change], directory: str, volumes: Volumes, progress: Progress
) -> list[Changed]:
    """Put the old menu back by one rename, with nothing else in that opening of the volume."""
    done: list[Changed] = []
    for change in changed:
        progress(f"restoring {volumes.name('boot')}:/{change.path}", 0, 0)
        with volumes.write("boot") as boot:
            temporary = _replacement(change, directory, boot)
        with volumes.write("boot") as boot:
            boot.rename(temporary, change.path)
        done.append(_reversed(change, volumes))
    return done


def _replacement(change: Change, directory: str, boot: WritableTree) -> str:
    """Give the old file a temporary name beside the new one."""
    backup = f"{directory}/{change.backup}"
    if boot.digest(backup) != change.before:
        raise RefusedError(f"/{backup} is not the backup that it should be")
    temporary = temporary_beside(change.path)
    if _link(boot, backup, temporary):
        return temporary
    return boot.write_temporary(change.path, [boot.read(backup, MAX_TEXT)], like=change.path)


def _restore_file(change: Change, directory: str, boot: WritableTree) -> None:
    if change.before is None:
        boot.remove(change.path)
    else:
        boot.rename(_replacement(change, directory, boot), change.path)


def _restore_root(
    manifest: Manifest, copies: dict[str, bytes], volumes: Volumes, progress: Progress
) -> list[Changed]:
    changes = [each for each in manifest.changes if each.where == "root" and each.path in copies]
    if not changes:
        return []
    done: list[Changed] = []
    with volumes.write("root") as root:
        for change in reversed(changes):
            root.remove_temporaries(parent_of(change.path))
            if _is_after(change, root):
                progress(f"restoring {volumes.name('root')}:/{change.path}", 0, 0)
                temporary = root.write_temporary(
                    change.path,
                    [copies[change.path]],
                    like=change.path,
                    mtime_ns=change.mtime_ns,
                )
                root.rename(temporary, change.path)
                done.append(_reversed(change, volumes))
    return done


def _remove_backups(backups: str, manifest: Manifest, boot: WritableTree) -> None:
    """Remove a run's manifest, then, since it has none any more, its backups."""
    path = f"{backups}/{manifest.run_id}/{NAME}"
    if boot.is_file(path):
        boot.remove(path)
    _remove_orphans(backups, boot)


def _remove_orphans(backups: str, boot: WritableTree) -> None:
    """Remove what runs without a manifest left: they were cut off at one of their ends.

    Without one there are only second names and copies of files that are in place.
    """
    for name in boot.names(backups):
        directory = f"{backups}/{name}"
        if not boot.is_directory(directory) or boot.exists(f"{directory}/{NAME}"):
            continue
        boot.remove_temporaries(directory)
        for backup in boot.names(directory):
            if _BACKUP.fullmatch(backup):
                boot.remove(f"{directory}/{backup}")
        if not boot.names(directory):
            boot.remove_directory(directory)
    if not boot.names(backups):
        boot.remove_directory(backups)
