"""Rollback: bring the guest's files back as they were, byte for byte, from a run's backups.

A run is taken back together with those that it finished or mended, as one: first everything is
checked, then the menu is switched back by one rename, then the root file system's files, and last
what no menu names any more. Hashes alone say how far an earlier attempt came, so that it can be
repeated after a power cut at any instant.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from bootgraft_agent import grub
from bootgraft_agent.directory_growth import TEMPORARY_NAME, check_growth
from bootgraft_agent.errors import BootgraftError, ChangesLeftError, RefusedError
from bootgraft_agent.files import Tree, WritableTree, parent_of, temporary_beside
from bootgraft_agent.guest import FILE_COMMANDS, MAX_TEXT, file_argument, grub_path
from bootgraft_agent.manifest import MAX_SIZE, NAME, RESULT, Change, Manifest, parse_manifest
from bootgraft_agent.plan import Where, sha256
from bootgraft_agent.volumes import Changed, Outcome, Progress, Volumes

_BACKUP = re.compile(r"\d{3}")


@dataclass(frozen=True, slots=True)
class _Restore:
    """One file to bring back: what it was before the oldest of the runs, and after any of them."""

    where: Where
    path: str
    before: str | None  # SHA-256; None: there was no file
    after: frozenset[str]
    backup: str | None  # path in the boot volume
    mtime_ns: int | None
    is_menu: bool

    def is_due(self, tree: Tree) -> bool:
        """Whether the file is as a run left it, and was different before."""
        found = tree.digest(self.path)
        return found != self.before and found in self.after


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
    _check_unchanged(backups, chain, volumes)
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


def was_cut_off(manifest: Manifest, backups: str, boot: Tree) -> bool:
    """Whether a run ended before its last write: the menu, or, without one, any of its files."""
    menus = [each for each in manifest.changes if each.is_menu]
    if not menus:
        copies = [each for each in manifest.changes if each.where == "boot"]
        return any(boot.digest(each.path) == each.before for each in copies)
    return any(_is_untouched(each, manifest, backups, boot) for each in menus)


def _is_untouched(change: Change, manifest: Manifest, backups: str, boot: Tree) -> bool:
    """Whether a file is still the one that was there before the run."""
    if change.linked:
        backup = f"{backups}/{manifest.run_id}/{change.backup}"
        return boot.is_same_file(change.path, backup)
    return boot.digest(change.path) == change.before


def _find_chain(manifests: Mapping[str, Manifest], chosen: str) -> list[Manifest]:
    """Give a run and those that it finished or mended, the newest first."""
    names = [chosen]
    for name in names:
        names += [each for each in manifests[name].continues if each in manifests]
        if len(names) > len(manifests) ** 2:
            raise RefusedError(f"the manifests of {chosen} and of the runs before it go in circles")
    return sorted((manifests[name] for name in set(names)), key=lambda each: -each.sequence)


def _merge(backups: str, chain: Iterable[Manifest], boot: Tree) -> list[_Restore]:
    """Take several runs, the newest first, as one: each file as it was before the oldest.

    A file that was edited in place after a cut has changed its backup, too, which is a second
    name of it: then the newer run's backup is the one to go back to.
    """
    merged: dict[tuple[Where, str], _Restore] = {}
    for manifest in chain:
        for change in manifest.changes:
            key = change.where, change.path
            backup = change.backup and f"{backups}/{manifest.run_id}/{change.backup}"
            newer = merged.get(key)
            after = {change.after} | (newer.after if newer else set())
            older = _Restore(
                *key, change.before, frozenset(after), backup, change.mtime_ns, change.is_menu
            )
            if newer is None or backup is None or boot.digest(backup) == change.before:
                merged[key] = older
            else:
                merged[key] = replace(newer, after=frozenset(after))
    return list(merged.values())


# Checks, before anything is written


def _check_unchanged(backups: str, chain: Sequence[Manifest], volumes: Volumes) -> None:
    """Refuse a rollback over changes that somebody else made."""
    for where in ("boot", "root"):
        changes = [
            (manifest, change)
            for manifest in chain
            for change in manifest.changes
            if change.where == where
        ]
        if not changes:
            continue
        with volumes.read(changes[0][1].where) as tree:
            for manifest, change in changes:
                # A rollback that was cut off at its end left what the oldest run began with.
                known = {each.before for _, each in changes if each.path == change.path}
                known |= {each.after for _, each in changes if each.path == change.path}
                if tree.digest(change.path) not in known and not (
                    where == "boot" and _is_untouched(change, manifest, backups, tree)
                ):
                    raise RefusedError(
                        f"{volumes.name(change.where)}:/{change.path} has been changed since run"
                        f" {manifest.run_id}, so the rollback would lose that; nothing was changed."
                        " Undo that change first, or restore the file from the backups by hand"
                    )


def _check_backups(restores: Iterable[_Restore], volumes: Volumes) -> None:
    """Refuse a rollback whose backups are not what they should be."""
    with volumes.read("boot") as boot:
        for restore in restores:
            if restore.before is None or restore.backup is None:
                continue
            # A run that was cut off early has not come to the backups of the root file system.
            is_needed = restore.where == "boot" and restore.is_due(boot)
            found = boot.digest(restore.backup) if is_needed or restore.where == "root" else None
            if (is_needed or found is not None) and found != restore.before:
                raise RefusedError(
                    f"/{restore.backup}, the backup of /{restore.path}, is missing or damaged;"
                    " nothing was changed"
                )


def _check_menu(
    restores: Sequence[_Restore], manifests: Iterable[Manifest], volumes: Volumes
) -> None:
    """Refuse to remove a file that the menu still names afterwards."""
    menus = {each.path for manifest in manifests for each in manifest.changes if each.is_menu}
    with volumes.read("boot") as boot:
        removed = {
            each.path
            for each in restores
            if each.where == "boot" and each.before is None and each.is_due(boot)
        }
        old_menus = [each for each in restores if each.is_menu and each.is_due(boot)]
        sources = {each.path: each.backup for each in old_menus}
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
        for menu in (each for each in restores if each.is_menu and each.is_due(boot)):
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

    def note(restore: _Restore, found: str | None) -> None:
        name = f"{volumes.name(restore.where)}:/{restore.path}"
        progress(f"restored {name}", 0, 0)
        done.append(Changed(name, found, restore.before))

    with volumes.read("boot") as boot:
        due = [each for each in restores if each.where == "boot" and each.is_due(boot)]
        found = {each.path: boot.digest(each.path) for each in due}
        copies = _read_copies(restores, boot)
    for menu in [each for each in due if each.is_menu]:
        with volumes.write("boot") as writable:
            temporary = _make_replacement(menu, writable)
            _keep_inode(menu, writable)
        with volumes.write("boot") as writable:
            writable.rename(temporary, menu.path)
        note(menu, found[menu.path])
    if copies:
        with volumes.write("root") as root:
            for restore, content in copies:
                root.remove_temporaries(parent_of(restore.path))
                if restore.is_due(root):
                    digest = root.digest(restore.path)
                    _write_copy(restore, content, root)
                    note(restore, digest)
    with volumes.write("boot") as writable:
        for restore in due:
            if not restore.is_menu:
                _restore_file(restore, writable)
                note(restore, found[restore.path])
        for parent in {parent_of(each.path) for each in restores if each.where == "boot"}:
            writable.remove_temporaries(parent)
        for manifest in chain:
            path = f"{backups}/{manifest.run_id}/{NAME}"
            if writable.is_file(path):
                writable.remove(path)
        remove_orphans(backups, writable)


def _read_copies(restores: Iterable[_Restore], boot: Tree) -> list[tuple[_Restore, bytes]]:
    """Read the backups of the root file system's files, as far as the run came to make them."""
    return [
        (restore, boot.read(restore.backup, MAX_TEXT))
        for restore in restores
        if restore.where == "root" and restore.backup is not None and boot.is_file(restore.backup)
    ]


def _make_replacement(restore: _Restore, boot: WritableTree) -> str:
    """Give the old file a temporary name beside the new one."""
    if restore.backup is None or boot.digest(restore.backup) != restore.before:
        raise RefusedError(f"the backup of /{restore.path} is not what it should be")
    temporary = temporary_beside(restore.path)
    if boot.try_link(restore.backup, temporary):
        return temporary
    content = boot.read(restore.backup, MAX_TEXT)
    return boot.write_temporary(restore.path, [content], like=restore.path)


def _keep_inode(menu: _Restore, boot: WritableTree) -> None:
    """Give the menu of the graft a second name until the old one is in its place.

    Else the rename frees its inode, and that may reach the disk before the directory does: without
    a replay of the journal GRUB then finds an empty menu.
    """
    boot.try_link(menu.path, temporary_beside(menu.path))


def _restore_file(restore: _Restore, boot: WritableTree) -> None:
    if restore.before is None:
        boot.remove(restore.path)
    else:
        boot.rename(_make_replacement(restore, boot), restore.path)


def _write_copy(restore: _Restore, content: bytes, root: WritableTree) -> None:
    if sha256(content) != restore.before:
        raise RefusedError(f"the backup of /{restore.path} is not what it should be")
    temporary = root.write_temporary(
        restore.path, [content], like=restore.path, mtime_ns=restore.mtime_ns
    )
    root.rename(temporary, restore.path)


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
