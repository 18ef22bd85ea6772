"""PowerShell text to the tree of the subset.

`parse_script` reads tree-sitter's parse tree and refuses whatever is not listed here, so that a
construct outside the subset fails also where no test would have run it.
"""

import functools
from collections.abc import Callable

import tree_sitter_powershell
from tree_sitter import Language, Node, Parser

from hyperv.syntax import (
    Argument,
    Assign,
    AsText,
    Binary,
    Cast,
    Collected,
    CommandCall,
    Constant,
    Evaluate,
    Expression,
    ForEach,
    HashLiteral,
    If,
    Index,
    ItemList,
    Member,
    MethodCall,
    OutsideSubsetError,
    Parenthesised,
    Script,
    ScriptParameter,
    Statement,
    TypeName,
    Variable,
)

# Rules of the grammar that wrap a single child where their operator is absent.
_WRAPPERS = frozenset(
    {
        "logical_expression",
        "bitwise_expression",
        "comparison_expression",
        "additive_expression",
        "multiplicative_expression",
        "format_expression",
        "range_expression",
        "array_literal_expression",
        "unary_expression",
        "expression_with_unary_operator",
        "argument_expression",
        "logical_argument_expression",
        "bitwise_argument_expression",
        "comparison_argument_expression",
        "additive_argument_expression",
        "multiplicative_argument_expression",
        "format_argument_expression",
        "range_argument_expression",
        "left_assignment_expression",
        "string_literal",
        "integer_literal",
        "pipeline_chain",
        "pipeline",
        "key_expression",
    }
)
_OPERATORS = frozenset({"-eq", "-contains", "-bor"})


def parse_tree(text: str) -> Node:
    """Tree-sitter's tree of a script, with its ERROR and MISSING nodes if there are any."""
    parser = Parser(Language(tree_sitter_powershell.language()))
    return parser.parse(text.encode()).root_node


@functools.lru_cache(maxsize=256)
def parse_script(text: str) -> Script:
    """Parse a whole script. Raises OutsideSubsetError."""
    root = parse_tree(text)
    if root.has_error:
        raise OutsideSubsetError(_first_error_line(root), "does not parse")
    parameters: tuple[ScriptParameter, ...] = ()
    statements: tuple[Statement, ...] = ()
    for child in _children(root):
        match child.type:
            case "param_block":
                parameters = _parameters(child)
            case "statement_list":
                statements = _statements(child)
            case _:
                raise _outside(child)
    return Script(parameters, statements)


def _first_error_line(node: Node) -> int:
    if node.type == "ERROR" or node.is_missing:
        return node.start_point[0] + 1
    broken = next(child for child in node.children if child.has_error or child.is_missing)
    return _first_error_line(broken)


def _line(node: Node) -> int:
    return int(node.start_point[0]) + 1


def _text(node: Node) -> str:
    return node.text.decode() if node.text is not None else ""


def _outside(node: Node, what: str = "") -> OutsideSubsetError:
    first_line = _text(node).partition("\n")[0]
    return OutsideSubsetError(_line(node), f"{what or node.type}: {first_line}")


def _children(node: Node) -> list[Node]:
    """The children that mean something: no comments, no semicolons."""
    ignored = ("comment", "empty_statement", ";")
    return [child for child in node.children if child.type not in ignored]


def _unwrap(node: Node) -> Node:
    """Descend through the rules that only hold one other."""
    while node.type in _WRAPPERS and len(_children(node)) == 1:
        node = _children(node)[0]
    return node


def _find(node: Node, kind: str) -> list[Node]:
    return [child for child in _children(node) if child.type == kind]


def _parameters(block: Node) -> tuple[ScriptParameter, ...]:
    parameters = []
    for listing in _find(block, "parameter_list"):
        for parameter in _find(listing, "script_parameter"):
            attributes = [_text(found) for found in _find(parameter, "attribute_list")]
            words = "".join("".join(attributes).lower().split())
            if words != "[parameter(mandatory=$true)][string]" or len(_children(parameter)) != 2:
                raise _outside(parameter, "a parameter that is no mandatory string")
            parameters.append(ScriptParameter(_text(_children(parameter)[1]).lstrip("$")))
    for attribute in _find(block, "attribute_list"):
        if _text(attribute).lower() != "[cmdletbinding()]":
            raise _outside(attribute)
    return tuple(parameters)


def _statements(listing: Node) -> tuple[Statement, ...]:
    return tuple(_statement(child) for child in _children(listing))


def _statement(node: Node) -> Statement:
    node = _unwrap(node)
    match node.type:
        case "command":
            return _command(node)
        case "assignment_expression":
            return _assignment(node)
        case "foreach_statement":
            return _foreach(node)
        case "if_statement":
            return _if(node)
        case _:
            return Evaluate(_line(node), _expression(node))


def _assignment(node: Node) -> Assign:
    left, operator, right = _children(node)
    target = _expression(left)
    if _text(operator) != "=" or not isinstance(target, Variable | Member | Index):
        raise _outside(node, "assignment")
    value = _statement(right)
    if isinstance(value, Assign | If) or (isinstance(target, Variable) and target.scope == "env"):
        raise _outside(node, "assignment")
    return Assign(_line(node), target, value)


def _foreach(node: Node) -> ForEach:
    _, _, variable, _, source, _, block = _children(node)
    name = _variable(variable)
    if name.scope:
        raise _outside(variable, "loop variable")
    return ForEach(_line(node), name, _statement(source), _block(block))


def _if(node: Node) -> If:
    children = _children(node)
    if len(children) != 5:
        raise _outside(node, "else")
    condition = _expression(children[2])
    plain = condition.left if isinstance(condition, Binary) else condition
    operands = (plain, condition.right) if isinstance(condition, Binary) else (plain,)
    if not all(_is_property_chain(operand) for operand in operands):
        raise _outside(children[2], "condition")
    return If(_line(node), condition, _block(children[4]))


def _block(node: Node) -> tuple[Statement, ...]:
    return tuple(
        statement for listing in _find(node, "statement_list") for statement in _statements(listing)
    )


def _is_property_chain(expression: Expression) -> bool:
    while isinstance(expression, Member):
        expression = expression.target
    return isinstance(expression, Variable)


def _command(node: Node) -> CommandCall:
    name, *rest = _children(node)
    if name.type != "command_name":
        raise _outside(node)
    elements = _children(rest[0]) if rest else []
    arguments: list[Argument] = []
    attached = False
    for element in elements:
        if element.type == "command_argument_sep":
            attached = attached or _text(element).startswith(":")
        elif element.type == "command_parameter":
            arguments.append(Argument(_text(element).removeprefix("-"), None))
        elif attached:
            arguments[-1] = Argument(arguments[-1].name, _argument(element))
            attached = False
        else:
            arguments.append(Argument(None, _argument(element)))
    return CommandCall(_line(node), _text(name), tuple(arguments))


def _argument(node: Node) -> Expression:
    """An argument of a command, where [Type]::Name would be taken for a plain string."""
    expression = _expression(node)
    root = expression
    while isinstance(root, Member | Index):
        root = root.target
    if isinstance(root, TypeName | MethodCall | Cast | Binary):
        raise _outside(node, "an argument that needs parentheses")
    return expression


def _expression(node: Node) -> Expression:
    node = _unwrap(node)
    readers: dict[str, Callable[[Node], Expression]] = {
        "variable": _variable,
        "type_literal": lambda found: TypeName(_type_name(found)),
        "member_access": _member,
        "invokation_expression": _method_call,
        "element_access": _index,
        "cast_expression": _cast,
        "hash_literal_expression": _hash_literal,
        "array_expression": _collected,
        "array_literal_expression": _item_list,
        "parenthesized_expression": _parenthesised,
        "comparison_expression": _binary,
        "bitwise_expression": _binary,
        "bitwise_argument_expression": _binary,
        "expression_with_unary_operator": _negative_number,
        "verbatim_string_characters": lambda found: Constant(_verbatim(found)),
        "expandable_string_literal": _expandable,
        "decimal_integer_literal": lambda found: Constant(int(_text(found))),
        "hexadecimal_integer_literal": lambda found: Constant(int(_text(found), 16)),
        "real_literal": lambda found: Constant(float(_text(found))),
    }
    if node.type not in readers:
        raise _outside(node)
    return readers[node.type](node)


def _variable(node: Node) -> Variable:
    name = _text(node).removeprefix("$").lower()
    scope, colon, rest = name.rpartition(":")
    if scope not in ("", "global", "env") or not rest.replace("_", "a").isalnum() or rest == "_":
        raise _outside(node)
    return Variable(scope if colon else "", rest)


def _type_name(node: Node) -> str:
    return "".join(_text(node).removeprefix("[").removesuffix("]").split())


def _member_name(node: Node) -> str:
    inner = _children(node)
    if len(inner) != 1 or inner[0].type != "simple_name":
        raise _outside(node)
    return _text(inner[0])


def _target(node: Node, separator: Node) -> Expression:
    target = _expression(node)
    if (_text(separator) == "::") != isinstance(target, TypeName):
        raise _outside(node)
    return target


def _member(node: Node) -> Member:
    target, separator, name = _children(node)
    return Member(_line(node), _target(target, separator), _member_name(name))


def _method_call(node: Node) -> MethodCall:
    children = _children(node)
    if len(children) == 2:
        member = _expression(children[0])
        if not isinstance(member, Member):
            raise _outside(node)
        target, name = member.target, member.name
    else:
        target, name = _target(children[0], children[1]), _member_name(children[2])
    arguments = [
        expression
        for listing in _find(children[-1], "argument_expression_list")
        for argument in _find(listing, "argument_expression")
        for expression in _method_arguments(argument)
    ]
    return MethodCall(_line(node), target, name, tuple(arguments))


def _method_arguments(node: Node) -> list[Expression]:
    """An argument; the grammar takes `[A], $b` for a cast of `, $b`, where PowerShell sees two."""
    node = _unwrap(node)
    if node.type == "cast_expression":
        type_literal, operand = _children(node)
        rest = _children(_unwrap(operand))
        if len(rest) == 2 and rest[0].type == ",":
            return [TypeName(_type_name(type_literal)), *_method_arguments(rest[1])]
    return [_expression(node)]


def _index(node: Node) -> Index:
    target, _, index, _ = _children(node)
    return Index(_expression(target), _expression(index))


def _cast(node: Node) -> Cast:
    type_literal, operand = _children(node)
    return Cast(_line(node), _type_name(type_literal), _expression(operand))


def _hash_literal(node: Node) -> HashLiteral:
    entries: list[tuple[str, Statement]] = []
    for body in _find(node, "hash_literal_body"):
        for entry in _children(body):
            key, _, value = _children(entry)
            entries.append((_key(key), _statement(value)))
    return HashLiteral(tuple(entries))


def _key(node: Node) -> str:
    node = _unwrap(node)
    if node.type == "simple_name":
        return _text(node)
    expression = _expression(node)
    if not isinstance(expression, Constant):
        raise _outside(node)
    return str(expression.value)


def _collected(node: Node) -> Collected:
    return Collected(_block(node))


def _item_list(node: Node) -> ItemList:
    return ItemList(tuple(_expression(child) for child in _children(node) if child.type != ","))


def _parenthesised(node: Node) -> Parenthesised:
    _, inner, _ = _children(node)
    return Parenthesised(_statement(inner))


def _binary(node: Node) -> Binary:
    left, operator, right = _children(node)
    name = _text(operator).lower()
    if name not in _OPERATORS:
        raise _outside(node, f"operator {name}")
    return Binary(name, _expression(left), _expression(right))


def _negative_number(node: Node) -> Constant:
    sign, operand = _children(node)
    number = _expression(operand)
    if sign.type != "-" or not isinstance(number, Constant):
        raise _outside(node)
    if not isinstance(number.value, int | float):
        raise _outside(node)
    return Constant(-number.value)


def _verbatim(node: Node) -> str:
    return _text(node)[1:-1].replace("''", "'")


def _expandable(node: Node) -> Expression:
    """A string in double quotes: plain text, or one value and no text around it."""
    inside = _text(node)[1:-1]
    parts = _children(node)
    if not any(part.type in ("variable", "sub_expression") for part in parts):
        if "`" in inside or "$" in inside:
            raise _outside(node, "escape")
        return Constant(inside.replace('""', '"'))
    if len(parts) != 1 or _text(parts[0]) != inside:
        raise _outside(node, "values spliced into text")
    if parts[0].type == "variable":
        return AsText(Evaluate(_line(node), _variable(parts[0])))
    statements = _block(parts[0])
    if len(statements) != 1 or not isinstance(statements[0], Evaluate | CommandCall):
        raise _outside(node, "statement in a string")
    return AsText(statements[0])
