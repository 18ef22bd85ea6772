"""What is to be done where what is there is not what recipes want: steps, in order."""

from collections.abc import Collection, Iterator, Mapping

from bootgraft_agent.effects import Change
from bootgraft_agent.errors import RefusedError
from bootgraft_agent.files import TEMPORARY, parent_of
from bootgraft_agent.guest import MAX_TEXT
from bootgraft_agent.guest_tree import Node, PayloadRef, View, a_kind
from bootgraft_agent.plan import (
    CopyFile,
    CreateFile,
    MakeDirectory,
    MakeLink,
    Move,
    Remove,
    RemoveDirectory,
    Step,
    Target,
    WriteFile,
)
from bootgraft_agent.states import DirectoryState, FileState, LinkState, State, is_alike


class Differences:
    """The steps from a guest as it is now to what is wanted, by paths without first slashes."""

    def __init__(
        self,
        now: View,
        wanted: Mapping[str, Node | None],
        reasons: Mapping[str, str],
        switches: Collection[Target] = (),
    ) -> None:
        self._now = now
        self._wanted = wanted
        self._reasons = reasons
        self._switches = switches

    def steps(self) -> Iterator[Step]:
        """Give the steps: what is made before what is edited, and that before what is removed."""
        moves = {path: self._move(path) for path in self._wanted}
        moved = {step.target for step in moves.values() if step is not None}
        found: list[Change] = []
        for path in self._wanted:
            step = moves[path] or self._step(path)
            if step is not None and (isinstance(step, Move) or step.target not in moved):
                found.append(step)
        self._check_emptied(found)
        yield from sorted(found, key=_rank)

    def _reason(self, path: str) -> str:
        return self._reasons.get(path) or "as it was before an earlier run"

    def _step(self, path: str) -> Change | None:
        """Give the step for one path, None where what is wanted is there."""
        node, target = self._wanted[path], self._now.locate(path)
        found, reason = self._now.state(target), self._reason(path)
        if node is None:
            return _removal(target, found, reason)
        is_directory = isinstance(found, DirectoryState)
        if found is not None and is_directory != (node.kind == "directory"):
            there = "a directory" if is_directory else "no directory"
            raise RefusedError(
                f"/{path} is {there} and cannot become {a_kind(node.kind)} in one run; remove it in"
                " a run of its own first"
            )
        if node.kind == "directory":
            return _directory_step(target, node, found, reason)
        if node.kind == "link":
            is_there = isinstance(found, LinkState) and found.text == node.text
            return None if is_there else MakeLink(target, node.text, node.attributes, reason, found)
        return self._file_step(path, target, node, found)

    def _file_step(self, path: str, target: Target, node: Node, found: State) -> Change | None:
        reason = self._reason(path)
        old = found if isinstance(found, FileState) else None
        if old is not None and self._is_there(old, node):
            return None
        attributes = node.attributes
        if old is not None and old.attributes is not None and not node.is_given:
            attributes = old.attributes
        if isinstance(node.content, PayloadRef):
            ref = node.content
            return CopyFile(target, ref.source, ref.size, ref.sha256, attributes, found, reason)
        content = self._now.content(f"/{path}", node, MAX_TEXT)
        if old is None or old.size > MAX_TEXT:
            return CreateFile(target, content, attributes, reason, found)
        before = self._now.read(f"/{path}", MAX_TEXT)
        given = node.attributes if node.is_given else None
        return WriteFile(target, before, content, reason, given)

    def _is_there(self, found: FileState, node: Node) -> bool:
        if found.sha256 != self._now.digest_of(node):
            return False
        if not node.is_given or found.attributes is None:
            return True
        return is_alike(found.attributes, node.attributes)

    def _move(self, path: str) -> Move | None:
        """Give the step that renames a file to this path, if that is all that is to be done."""
        node = self._wanted[path]
        if node is None or node.origin is None or node.origin == path or node.kind != "file":
            return None
        if self._wanted.get(node.origin, node) is not None:
            return None
        target, origin = self._now.locate(path), self._now.locate(node.origin)
        if target in self._switches and self._wanted.get(parent_of(node.origin), node) is None:
            return None  # a switch comes last, and the directory that it is in goes before
        found = self._now.state(origin)
        if target.where != origin.where or self._now.state(target) is not None:
            return None
        if not isinstance(found, FileState) or found.sha256 != self._now.digest_of(node):
            return None
        return Move(origin, target, found, self._reason(path))

    def _check_emptied(self, steps: list[Change]) -> None:
        """Refuse to remove a directory that holds what only came after an earlier run."""
        gone = {step.target for step in steps if isinstance(step, Remove | RemoveDirectory | Move)}
        for step in steps:
            if not isinstance(step, RemoveDirectory):
                continue
            for name in self._now.names_at(step.target):
                inner = Target(step.target.where, step.target.volume, f"{step.target.path}/{name}")
                if inner not in gone and not name.startswith(TEMPORARY):
                    raise RefusedError(
                        f"{step.target} cannot be removed: it holds {name!r}, which came there"
                        " after an earlier run; move that away first"
                    )


def _removal(target: Target, found: State, reason: str) -> Change | None:
    if isinstance(found, DirectoryState):
        return RemoveDirectory(target, found, reason)
    return None if found is None else Remove(target, found, reason)


def _directory_step(target: Target, node: Node, found: State, reason: str) -> Change | None:
    if not isinstance(found, DirectoryState):
        return MakeDirectory(target, node.attributes, reason)
    if not node.is_given or is_alike(found.attributes, node.attributes):
        return None
    return MakeDirectory(target, node.attributes, reason, found)


def _rank(step: Change) -> tuple[int, int]:
    """Give the place of a step among others: by kind, and directories by depth."""
    depth = step.target.path.count("/")
    if isinstance(step, MakeDirectory):
        return 0, depth
    if isinstance(step, WriteFile):
        return 2, 0
    if isinstance(step, Move):
        return 3, 0
    if isinstance(step, Remove):
        return 4, 0
    if isinstance(step, RemoveDirectory):
        return 5, -depth
    return (1 if step.before is None else 2), 0
