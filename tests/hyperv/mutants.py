"""Scripts with one mistake each: a command or a parameter that is left out or misspelt."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from tree_sitter import Node

from hyperv.parsing import parse_tree


@dataclass(frozen=True, slots=True)
class Mutant:
    """A script's text with a mistake, and what the mistake is."""

    script: str
    line: int
    command: str
    mistake: str
    text: str

    def is_in(self, commands: Collection[str]) -> bool:
        """Whether the mistake is in one of these commands, named without their modules."""
        return self.command.rpartition("\\")[2] in commands

    def __str__(self) -> str:
        return f"{self.script}, line {self.line}: {self.mistake}"


def make_mutants(script: str, text: str) -> Iterator[Mutant]:
    """Give the script with each of the mistakes."""
    content = text.encode()
    for command in _find(parse_tree(text), "command"):
        name = next(child for child in command.children if child.type == "command_name")
        edits = [
            (f"{_text(name)} is misspelt", name.end_byte - 1, name.end_byte, "Q"),
            (f"{_text(name)} is left out", *_leave_out(command)),
        ]
        for first, last in _parameters(command):
            what = f"{_text(first)} of {_text(name)}"
            edits += [
                (f"{what} is misspelt", first.end_byte - 1, first.end_byte, "Q"),
                (f"{what} is left out", first.start_byte, last.end_byte, ""),
            ]
        for mistake, start, end, instead in edits:
            changed = content[:start] + instead.encode() + content[end:]
            line = content[:start].count(b"\n") + 1
            yield Mutant(script, line, _text(name), mistake, changed.decode())


def _find(node: Node, kind: str) -> Iterator[Node]:
    if node.type == kind:
        yield node
    for child in node.children:
        yield from _find(child, kind)


def _text(node: Node) -> str:
    return (node.text or b"").decode()


def _leave_out(command: Node) -> tuple[int, int, str]:
    """A statement goes; where a value is wanted, there is none then."""
    is_statement = _is_alone(command)
    return (command.start_byte, command.end_byte, "" if is_statement else "@()")


def _is_alone(command: Node) -> bool:
    node = command
    while node.parent is not None and node.parent.text == node.text:
        node = node.parent
        if node.type == "statement_list":
            return True
    return node.parent is not None and node.parent.type == "statement_list"


def _parameters(command: Node) -> Iterator[tuple[Node, Node]]:
    """Each parameter's name, and the last node that belongs to it."""
    elements = [
        element
        for group in command.children
        if group.type == "command_elements"
        for element in group.children
        if element.type != "command_argument_sep" or _text(element).startswith(":")
    ]
    for number, element in enumerate(elements):
        if element.type == "command_parameter":
            rest = elements[number + 1 :]
            own = [each for each in rest[:2] if each.type != "command_parameter"]
            if rest[:1] and rest[0].type == "command_parameter":
                own = []
            elif rest[:1] and rest[0].type != "command_argument_sep":
                own = own[:1]
            yield element, own[-1] if own else element
