"""Rollback: bring the guest's files back as they were, byte for byte, from a run's backups.

A run is taken back together with those that it finished or mended, as one: first everything is
checked, then the menu is switched back by one rename, then the other volumes' changes are taken
back, and last what no menu names any more. What is there alone says how far an earlier attempt
came, so that it can be repeated after a power cut at any instant.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bootgraft_agent import grub
from bootgraft_agent.directory_growth import TEMPORARY_NAME, check_growth
from bootgraft_agent.errors import BootgraftError, ChangesLeftError, RefusedError
from bootgraft_agent.files import TEMPORARY, Tree, WritableTree, parent_of, temporary_beside
from bootgraft_agent.guest import FILE_COMMANDS, MAX_TEXT, file_argument, grub_path
from bootgraft_agent.manifest import MAX_SIZE, NAME, RESULT, Change, Manifest, parse_manifest
from bootgraft_agent.plan import Where
from bootgraft_agent.spool import Spool
from bootgraft_agent.states import (
    DirectoryState,
    FileState,
    LinkState,
    State,
    digest_of,
    matches,
    same_content,
)
from bootgraft_agent.volumes import Changed, Outcome, Progress, Volumes

_BACKUP = re.compile(r"\d{3,6}")
_NO_MENUS = ("/grubenv", "/grub.cfg")  # of GRUB 2


@dataclass(frozen=True, slots=True)
class _Restore:
    """One path to bring back: what it was before the oldest of the runs, and after any of them."""

    where: Where
    path: str
    before: State
    after: tuple[State, ...]
    backup: str | None  # path in the boot volume
    linked: bool
    is_switch: bool

    def is_due(self, tree: Tree) -> bool:
        """Whether the path is as a run left it, and was different before."""
        return self.is_due_for(tree.state(self.path))

    def is_due_for(self, found: State) -> bool:
        """Whether what was found there is what a run left, and was different before."""
        return not matches(found, self.before) and any(
            same_content(found, each) for each in self.after
        )


def roll_back(backups: str, volumes: Volumes, run_id: str | None, progress: Progress) -> Outcome:
    """Take a run back, by default the latest, with the runs that it finished or mended.

    Raises RefusedError, with nothing changed, where a file has been changed since by somebody
    else, or a backup is damaged; ChangesLeftError where it fails in the middle.
    """
    with volumes.read("boot") as boot:
        manifests = {each.run_id: each for each in read_manifests(boot, backups)}
        has_orphans = not manifests and boot.is_directory(backups)
    if has_orphans:
        with volumes.write("boot") as writable:
            remove_orphans(backups, writable)
    if not manifests and run_id is None:
        return Outcome(None, (), (), ("there is no graft to roll back",))
    chosen = run_id if run_id is not None else list(manifests)[-1]
    if chosen not in manifests:
        listed = ", ".join(manifests) or "none"
        raise RefusedError(f"there is no run {chosen} on this guest; there are: {listed}")
    chain = _find_chain(manifests, chosen)
    with volumes.read("boot") as boot:
        restores = _merge(backups, chain, boot)
    _check_unchanged(backups, chain, restores, volumes)
    _check_backups(restores, volumes)
    _check_menu(restores, manifests.values(), volumes)
    _check_growth(restores, volumes)
    done: list[Changed] = []
    try:
        _restore(backups, chain, restores, volumes, progress, done)
    except (OSError, BootgraftError) as error:
        if not done:
            raise
        restored = ", ".join(each.target for each in done)
        raise ChangesLeftError(
            f"the rollback of {chosen} stopped in the middle: {describe_failure(error)}; restored"
            f" so far: {restored}. Mend that, then run the rollback again, which finishes it"
        ) from error
    return Outcome(chosen, tuple(done), ())


def undo(backups: str, manifest: Manifest, volumes: Volumes) -> None:
    """Take back what an apply that failed has done so far."""
    with volumes.read("boot") as boot:
        if not boot.is_directory(backups):
            return  # it did not come to its first write
        restores = _merge(backups, [manifest], boot)
    _restore(backups, [manifest], restores, volumes, lambda *_: None, [])


def describe_failure(error: Exception) -> str:
    """Say what failed, and on which file."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror} ({error.filename})" if error.filename else error.strerror
    return str(error)


# Which runs


def read_manifests(boot: Tree, backups: str) -> tuple[Manifest, ...]:
    """Read the manifests of all runs on a guest, oldest first.

    Raises RefusedError for one that is damaged, with its name.
    """
    if not boot.is_directory(backups):
        return ()
    found: list[Manifest] = []
    for name in boot.names(backups):
        path = f"{backups}/{name}/{NAME}"
        if not boot.is_file(path):
            continue
        try:
            manifest = parse_manifest(boot.read(path, MAX_SIZE))
        except RefusedError as error:
            raise RefusedError(f"/{path}: {error}; move its directory away to go on") from error
        if manifest.run_id != name:
            raise RefusedError(f"/{path} is the manifest of {manifest.run_id}; move it away")
        found.append(manifest)
    return tuple(sorted(found, key=lambda each: each.sequence))


def was_cut_off(manifest: Manifest, backups: str, volumes: Volumes) -> bool:
    """Whether a run ended before its last write: the menu, or, without one, any of its changes."""
    last = [each for each in manifest.changes if each.is_switch] or manifest.changes
    for where in dict.fromkeys(each.where for each in last):
        with volumes.read(where) as tree:
            if any(
                _is_untouched(each, manifest, backups, tree) for each in last if each.where == where
            ):
                return True
    return False


def _is_untouched(change: Change, manifest: Manifest, backups: str, tree: Tree) -> bool:
    """Whether a path is still what it was before the run."""
    if change.linked:
        backup = f"{backups}/{manifest.run_id}/{change.backup}"
        return tree.is_same_file(change.path, backup)
    return matches(tree.state(change.path), change.before)


def _find_chain(manifests: Mapping[str, Manifest], chosen: str) -> list[Manifest]:
    """Give a run and those that it finished or mended, the newest first."""
    names = [chosen]
    for name in names:
        names += [each for each in manifests[name].continues if each in manifests]
        if len(names) > len(manifests) ** 2:
            raise RefusedError(f"the manifests of {chosen} and of the runs before it go in circles")
    return sorted((manifests[name] for name in set(names)), key=lambda each: -each.sequence)


def _merge(backups: str, chain: Iterable[Manifest], boot: Tree) -> list[_Restore]:
    """Take several runs, the newest first, as one: each path as it was before the oldest.

    In the order in which they are to be taken back. A file that was edited in place after a cut
    has changed its backup, too, which is a second name of it: then the newer run's backup is the
    one to go back to.
    """
    merged: dict[tuple[Where, str], _Restore] = {}
    for manifest in chain:
        for change in reversed(manifest.changes):
            key = change.where, change.path
            backup = change.backup and f"{backups}/{manifest.run_id}/{change.backup}"
            newer = merged.get(key)
            after = (change.after, *(newer.after if newer else ()))
            older = _Restore(*key, change.before, after, backup, change.linked, change.is_switch)
            is_good = backup is None or boot.digest(backup) == digest_of(change.before)
            if newer is None or is_good:
                merged[key] = older
            else:
                merged[key] = replace(newer, after=after)
    return list(merged.values())


def _wheres(restores: Iterable[_Restore]) -> list[Where]:
    """Give the volumes of some paths, the boot volume last."""
    found = dict.fromkeys(each.where for each in restores)
    return sorted(found, key=lambda each: each == "boot")


# Checks, before anything is written


def _check_unchanged(
    backups: str, chain: Sequence[Manifest], restores: Sequence[_Restore], volumes: Volumes
) -> None:
    """Refuse a rollback over changes that somebody else made."""
    for where in reversed(_wheres(restores)):
        with volumes.read(where) as tree:
            states = {each.path: tree.state(each.path) for each in restores if each.where == where}
            for manifest in chain:
                for change in manifest.changes:
                    if change.where == where and not _is_ours(
                        states[change.path], change, manifest, backups, chain, tree
                    ):
                        raise RefusedError(
                            f"{volumes.name(where)}:/{change.path} has been changed since run"
                            f" {manifest.run_id}, so the rollback would lose that; nothing was"
                            " changed. Undo that change first, or restore the file from the"
                            " backups by hand"
                        )
            here = [each for each in restores if each.where == where]
            _check_directories(here, states, volumes.name(where), tree)


def _is_ours(
    found: State,
    change: Change,
    manifest: Manifest,
    backups: str,
    chain: Iterable[Manifest],
    tree: Tree,
) -> bool:
    """Whether a path is as a run left it, or as one found it.

    A rollback that was cut off at its end left what the oldest run began with.
    """
    known = (
        state
        for each in chain
        for other in each.changes
        if (other.where, other.path) == (change.where, change.path)
        for state in (other.before, other.after)
    )
    if any(same_content(found, state) for state in known):
        return True
    return change.linked and _is_untouched(change, manifest, backups, tree)


def _check_directories(
    restores: Sequence[_Restore], states: Mapping[str, State], volume: str, tree: Tree
) -> None:
    """Refuse to remove a directory that holds what no run made, and to restore into none."""
    due = {each.path: each for each in restores if each.is_due_for(states[each.path])}
    removed = {path for path, each in due.items() if each.before is None}
    made = {path for path, each in due.items() if isinstance(each.before, DirectoryState)}
    for path in removed:
        if isinstance(states[path], DirectoryState):
            others = [
                name
                for name in tree.names(path)
                if f"{path}/{name}" not in removed and not name.startswith(TEMPORARY)
            ]
            if others:
                raise RefusedError(
                    f"{volume}:/{path} was made by the run, and now holds {others[0]!r}, which it"
                    " has not made; nothing was changed. Move that away first"
                )
    for path in due.keys() - removed:
        parent = parent_of(path)
        if parent not in made and not tree.is_directory(parent):
            raise RefusedError(
                f"{volume}:/{path} cannot be restored: its directory is gone; nothing was changed."
                " Make the directory first"
            )


def _check_backups(restores: Iterable[_Restore], volumes: Volumes) -> None:
    """Refuse a rollback whose backups are not what they should be."""
    with volumes.read("boot") as boot:
        for restore in restores:
            if not isinstance(restore.before, FileState) or restore.backup is None:
                continue
            # A run that was cut off early has not come to the backups of the root file system.
            is_needed = restore.where == "boot" and restore.is_due(boot)
            found = boot.digest(restore.backup) if is_needed or restore.where != "boot" else None
            if (is_needed or found is not None) and found != restore.before.sha256:
                raise RefusedError(
                    f"/{restore.backup}, the backup of /{restore.path}, is missing or damaged;"
                    " nothing was changed"
                )


def _check_menu(
    restores: Sequence[_Restore], manifests: Iterable[Manifest], volumes: Volumes
) -> None:
    """Refuse to remove a file that the menu still names afterwards."""
    menus = {
        each.path
        for manifest in manifests
        for each in manifest.changes
        if each.is_switch and not each.path.endswith(_NO_MENUS)
    }
    with volumes.read("boot") as boot:
        due = [each for each in restores if each.where == "boot" and each.is_due(boot)]
        removed = {each.path for each in due if each.before is None}
        sources = {each.path: each.backup for each in due if each.is_switch}
        for menu in menus:
            source = sources.get(menu) or menu
            if not removed or not boot.is_file(source):
                continue
            for path in _named_files(boot.read(source, MAX_TEXT)):
                if boot.exists(path) and boot.resolve(path) in removed:
                    raise RefusedError(
                        f"the menu /{menu} would still name /{path} after this rollback, which"
                        " removes it; roll the run back that wrote the menu, with --run"
                    )


def _check_growth(restores: Iterable[_Restore], volumes: Volumes) -> None:
    """Refuse where the menu's directory may have to grow for the menu's replacement."""
    with volumes.read("boot") as boot:
        for menu in (
            each
            for each in restores
            if each.where == "boot" and each.is_switch and each.is_due(boot)
        ):
            directory = parent_of(menu.path)
            shown = f"{volumes.name('boot')}:/{directory}"
            check_growth(boot, directory, [TEMPORARY_NAME] * 2, shown)


def _named_files(menu: bytes) -> Iterable[str]:
    for entry in grub.parse_menu(menu).entries:
        for command in entry.commands:
            if command.name in FILE_COMMANDS:
                yield grub_path(file_argument(command.argument))


# Writes


def _restore(
    backups: str,
    chain: Sequence[Manifest],
    restores: Sequence[_Restore],
    volumes: Volumes,
    progress: Progress,
    done: list[Changed],
) -> None:
    """Restore in the order in which GRUB always finds the old or the new; note what is done."""

    def note(restore: _Restore, found: State) -> None:
        name = f"{volumes.name(restore.where)}:/{restore.path}"
        progress(f"restored {name}", 0, 0)
        done.append(Changed(name, digest_of(found), digest_of(restore.before)))

    with volumes.read("boot") as boot:
        due = [each for each in restores if each.where == "boot" and each.is_due(boot)]
        found = {each.path: boot.state(each.path) for each in due}
    for switch in [each for each in due if each.is_switch]:
        _switch_back(switch, volumes)
        note(switch, found[switch.path])
    for where in _wheres(restores):
        if where != "boot":
            here = [each for each in restores if each.where == where]
            for restore, state in _restore_volume(where, here, volumes):
                note(restore, state)
    with volumes.write("boot") as writable:
        _tidy(writable, [each for each in restores if each.where == "boot"])
        for restore in due:
            if not restore.is_switch:
                _bring_back(restore, writable, None)
                note(restore, found[restore.path])
        for manifest in chain:
            path = f"{backups}/{manifest.run_id}/{NAME}"
            if writable.is_file(path):
                writable.remove(path)
        remove_orphans(backups, writable)


def _switch_back(switch: _Restore, volumes: Volumes) -> None:
    """Put back what a boot loader reads, by one rename in an opening of its own."""
    with volumes.write("boot") as writable:
        temporary = _make_replacement(switch, writable, None)
        _keep_inode(switch, writable)
    with volumes.write("boot") as writable:
        if temporary is None:
            writable.remove(switch.path)
        else:
            writable.rename(temporary, switch.path)


def _restore_volume(
    where: Where, restores: Sequence[_Restore], volumes: Volumes
) -> Iterator[tuple[_Restore, State]]:
    """Restore what another volume than the boot volume holds; give each, and what it was."""
    with volumes.read(where) as tree:
        due = [each for each in restores if each.is_due(tree)]
        is_left = any(
            name.startswith(TEMPORARY)
            for parent in _parents(restores, tree)
            for name in tree.names(parent)
        )
    if not due and not is_left:
        return
    with contextlib.ExitStack() as stack:
        copies: dict[str, Spool] = {}
        if any(each.backup and not each.linked for each in due):
            with volumes.read("boot") as boot:
                for restore in due:
                    if restore.backup and not restore.linked and boot.is_file(restore.backup):
                        copies[restore.path] = stack.enter_context(Spool.read(boot, restore.backup))
        with volumes.write(where) as writable:
            _tidy(writable, restores)
            for restore in due:
                state = writable.state(restore.path)
                if restore.is_due_for(state):
                    _bring_back(restore, writable, copies.get(restore.path))
                    yield restore, state


def _parents(restores: Iterable[_Restore], tree: Tree) -> list[str]:
    found = dict.fromkeys(parent_of(each.path) for each in restores)
    return [each for each in found if tree.is_directory(each)]


def _tidy(tree: WritableTree, restores: Iterable[_Restore]) -> None:
    """Remove what a run that was cut off left unfinished."""
    for parent in _parents(restores, tree):
        tree.remove_temporaries(parent)


def _bring_back(restore: _Restore, tree: WritableTree, copy: Spool | None) -> None:
    """Bring one path back to what it was before."""
    path, found = restore.path, tree.state(restore.path)
    if isinstance(found, DirectoryState) and not isinstance(restore.before, DirectoryState):
        tree.remove_directory(path)
        found = None
    if isinstance(restore.before, DirectoryState):
        if isinstance(found, DirectoryState):
            tree.set_directory_attributes(path, restore.before.attributes)
            return
        if found is not None:
            tree.remove(path)
    temporary = _make_replacement(restore, tree, copy)
    if temporary is not None:
        tree.rename(temporary, path)
    elif found is not None:
        tree.remove(path)


def _make_replacement(restore: _Restore, tree: WritableTree, copy: Spool | None) -> str | None:
    """Make what was there before under a temporary name beside the path; None for nothing."""
    path, before = restore.path, restore.before
    if isinstance(before, LinkState):
        return tree.make_temporary_link(path, before.text, before.attributes, before.mtime_ns)
    if isinstance(before, DirectoryState):
        return tree.make_temporary_directory(path, before.attributes)
    if before is None:
        return None
    if copy is None:
        if restore.backup is None or tree.digest(restore.backup) != before.sha256:
            raise RefusedError(f"the backup of /{path} is not what it should be")
        temporary = temporary_beside(path)
        if tree.try_link(restore.backup, temporary):
            return temporary
        with Spool.read(tree, restore.backup) as beside:
            return _write_copy(restore.path, before, beside, tree)
    return _write_copy(restore.path, before, copy, tree)


def _write_copy(path: str, before: FileState, copy: Spool, tree: WritableTree) -> str:
    temporary = tree.write_temporary(
        path, copy.chunks(), attributes=before.attributes, mtime_ns=before.mtime_ns
    )
    if tree.digest(temporary) != before.sha256:
        tree.remove(temporary)
        raise RefusedError(f"the backup of /{path} is not what it should be")
    return temporary


def _keep_inode(menu: _Restore, boot: WritableTree) -> None:
    """Give the menu of the graft a second name until the old one is in its place.

    Else the rename frees its inode, and that may reach the disk before the directory does: without
    a replay of the journal GRUB then finds an empty menu.
    """
    if isinstance(boot.state(menu.path), FileState):
        boot.try_link(menu.path, temporary_beside(menu.path))


def remove_orphans(backups: str, boot: WritableTree) -> None:
    """Remove the backups of runs without a manifest: they were cut off at one of their ends.

    Without one there are only second names and copies of files that are in place.
    """
    for name in boot.names(backups):
        directory = f"{backups}/{name}"
        if not boot.is_directory(directory) or boot.exists(f"{directory}/{NAME}"):
            continue
        boot.remove_temporaries(directory)
        for backup in boot.names(directory):
            if _BACKUP.fullmatch(backup) or backup == RESULT:
                boot.remove(f"{directory}/{backup}")
        if not boot.names(directory):
            boot.remove_directory(directory)
    if not boot.names(backups):
        boot.remove_directory(backups)
