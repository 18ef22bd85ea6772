"""An interpreter of the scripts' subset of PowerShell, over a modelled host's World."""

from collections.abc import Iterable, Mapping

from hyperv.binding import Given, bind
from hyperv.operators import are_equal, cast, combine_flags, contains, find_type, is_true, new_array
from hyperv.parsing import parse_script
from hyperv.syntax import (
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
    Statement,
    TypeName,
    Variable,
)
from hyperv.utility import utility_commands
from hyperv.values import (
    NO_OUTPUT,
    Command,
    Hashtable,
    HostObject,
    PowerShellError,
    PSObject,
    Session,
    StoppedError,
    call_method,
    each,
    property_not_found,
    text_of,
)

_FIXED: Mapping[str, object] = {
    "true": True,
    "false": False,
    "null": None,
    "psversiontable": PSObject([("PSVersion", "5.1.20348.2849"), ("PSEdition", "Desktop")]),
}
_UTILITY = utility_commands()
_SET_STRICT_MODE = Command("Set-StrictMode", {"Version": float}, lambda *_: ())


def run_script(text: str, parameters: Mapping[str, object], session: Session) -> list[object]:
    """Run a script in a session and give its output.

    Raises PowerShellError as the script's terminating error, and OutsideSubsetError for a script
    that the interpreter does not understand.
    """
    script = parse_script(text)
    session.stopping.clear()
    return Interpreter(session, _bind_parameters(script, parameters)).run(script)


def _bind_parameters(script: Script, parameters: Mapping[str, object]) -> dict[str, object]:
    command = Command(
        "script",
        {parameter.name: str for parameter in script.parameters},
        lambda *_: (),
        frozenset(parameter.name for parameter in script.parameters),
    )
    words = [Given(name, value, has_value=True) for name, value in parameters.items()]
    return {name.lower(): value for name, value in bind(command, words).items()}


class Interpreter:
    """One run of one script."""

    def __init__(self, session: Session, variables: dict[str, object]) -> None:
        self._session = session
        self._variables = variables
        self._strict = False

    def run(self, script: Script) -> list[object]:
        """Run all statements; the output, unrolled as PowerShell does it."""
        return self._run(script.statements)

    # Statements

    def _run(self, statements: Iterable[Statement]) -> list[object]:
        output: list[object] = []
        for statement in statements:
            if self._session.stopping.is_set():
                raise StoppedError
            output.extend(self._output(statement))
        return output

    def _output(self, statement: Statement) -> list[object]:
        """What a statement writes to the output."""
        match statement:
            case CommandCall():
                return self._call_command(statement)
            case Assign():
                self._assign(statement)
                return []
            case ForEach():
                return self._run_foreach(statement)
            case If():
                return self._run(statement.body) if self._holds(statement.condition) else []
            case Evaluate():
                return self._written(statement.expression)

    def _written(self, expression: Expression) -> list[object]:
        value = self._evaluate(expression)
        if value is None and isinstance(expression, MethodCall):
            return []  # a method that gives nothing
        return [None] if value is None else list(each(value))

    def _capture(self, statement: Statement) -> object:
        """A statement's value where one is wanted: nothing, the bare item, or an array."""
        if isinstance(statement, Evaluate):
            return self._evaluate(statement.expression)
        output = self._output(statement)
        if not output:
            return NO_OUTPUT
        return output[0] if len(output) == 1 else output

    def _assign(self, statement: Assign) -> None:
        value = self._capture(statement.value)
        match statement.target:
            case Variable():
                self._set_variable(statement.line, statement.target, value)
            case Member(target=target, name=name):
                owner = self._evaluate(target)
                if not isinstance(owner, PSObject | HostObject):
                    raise property_not_found(name)
                if type(owner) is PSObject and name not in owner:
                    raise property_not_found(name)
                owner.write(name, value)
            case Index(target=target, index=index):
                owner = self._evaluate(target)
                if not isinstance(owner, Hashtable):
                    raise OutsideSubsetError(statement.line, "assignment to an array's item")
                owner.write(text_of(self._evaluate(index)), value)

    def _set_variable(self, line: int, variable: Variable, value: object) -> None:
        if variable.scope == "global":
            self._session.globals[variable.name] = value
        elif variable.name == "null":
            return
        elif variable.name in _FIXED:
            raise OutsideSubsetError(line, f"assignment to ${variable.name}")
        else:
            self._variables[variable.name] = value

    def _run_foreach(self, statement: ForEach) -> list[object]:
        output: list[object] = []
        for item in each(self._capture(statement.source)):
            self._set_variable(statement.line, statement.variable, item)
            output.extend(self._run(statement.body))
        return output

    def _holds(self, condition: Expression) -> bool:
        return is_true(self._evaluate(condition))

    # Commands

    def _call_command(self, call: CommandCall) -> list[object]:
        if call.name.lower() == "set-strictmode":
            self._set_strict_mode(call)
            return []
        if "\\" not in call.name:
            raise OutsideSubsetError(call.line, f"command without its module: {call.name}")
        command = _UTILITY.get(call.name.lower()) or self._session.world.commands.get(
            call.name.lower()
        )
        if command is None:
            raise PowerShellError(
                f"The term '{call.name}' is not recognized as the name of a cmdlet, function,"
                " script file, or operable program.",
                "CommandNotFoundException",
                "ObjectNotFound",
            )
        if text_of(self._variables.get("erroractionpreference")).lower() != "stop":
            raise OutsideSubsetError(call.line, "command before $ErrorActionPreference = 'Stop'")
        return self._run_command(command, bind(command, self._words(call)))

    def _set_strict_mode(self, call: CommandCall) -> None:
        bound = bind(_SET_STRICT_MODE, self._words(call))
        if bound.get("Version") != 3.0:
            raise OutsideSubsetError(call.line, "strict mode other than -Version 3.0")
        self._strict = True

    def _words(self, call: CommandCall) -> list[Given]:
        return [
            Given(argument.name)
            if argument.value is None
            else Given(argument.name, self._evaluate(argument.value), has_value=True)
            for argument in call.arguments
        ]

    def _run_command(self, command: Command, arguments: dict[str, object]) -> list[object]:
        output: list[object] = []
        for item in command.run(self._session, arguments):
            if self._session.stopping.is_set():
                raise StoppedError
            output.append(item)
        return output

    # Expressions

    def _evaluate(self, expression: Expression) -> object:  # noqa: PLR0911, PLR0912 - one table
        match expression:
            case Constant(value=value):
                return value
            case Variable():
                return self._variable(expression)
            case TypeName(name=name):
                return find_type(self._session.world, name)
            case Member(target=TypeName(name=owner), name=name):
                return find_type(self._session.world, owner).read(name)
            case Member(target=target, name=name):
                return self._read(self._evaluate(target), name)
            case MethodCall():
                return self._call_method(expression)
            case Index():
                return self._item(self._evaluate(expression.target), expression.index)
            case Cast():
                return self._cast(expression)
            case HashLiteral():
                return Hashtable(self._entries(expression))
            case Collected(statements=statements):
                return self._run(statements)
            case ItemList(items=items):
                return [self._evaluate(item) for item in items]
            case AsText(value=value):
                return text_of(self._capture(value))
            case Parenthesised(statement=statement):
                return self._capture(statement)
            case Binary():
                return self._binary(expression)

    def _variable(self, variable: Variable) -> object:
        if variable.scope == "env":
            for name, value in self._session.world.environment.items():
                if name.lower() == variable.name:
                    return value
            return None
        if not variable.scope and variable.name in _FIXED:
            return _FIXED[variable.name]
        scope = self._session.globals if variable.scope else self._variables
        if variable.name not in scope:
            raise PowerShellError(
                f"The variable '${variable.name}' cannot be retrieved because it has not been set.",
                "VariableIsUndefined",
                "InvalidOperation",
            )
        return scope[variable.name]

    def _read(self, owner: object, name: str) -> object:
        if isinstance(owner, PSObject | HostObject):
            if name in owner or self._strict:
                return owner.read(name)
            return None
        sized: dict[str, type | tuple[type, ...]] = {
            "length": (str, list, bytearray),
            "count": (list, bytearray),
        }
        if isinstance(owner, sized.get(name.lower(), ())):
            assert isinstance(owner, str | list | bytearray)
            return len(owner)
        if self._strict:
            raise property_not_found(name)
        return None

    def _call_method(self, call: MethodCall) -> object:
        arguments = [self._evaluate(argument) for argument in call.arguments]
        if isinstance(call.target, TypeName):
            name = call.target.name
            if name.endswith("[]") and call.name.lower() == "new":
                return new_array(name, arguments)
            owner = find_type(self._session.world, name)
            return owner.call(self._session, call.name, arguments)
        target = self._evaluate(call.target)
        if target is None or target is NO_OUTPUT:
            raise PowerShellError(
                "You cannot call a method on a null-valued expression.",
                "InvokeMethodOnNull",
                "InvalidOperation",
            )
        if isinstance(target, HostObject):
            return target.call(call.name, arguments)
        return call_method(type(target).__name__, {}, call.name, ())

    def _item(self, owner: object, index: Expression) -> object:
        wanted = self._evaluate(index)
        if isinstance(owner, Hashtable):
            name = text_of(wanted)
            return owner.read(name) if name in owner else None
        if owner is None or owner is NO_OUTPUT:
            raise PowerShellError(
                "Cannot index into a null array.", "NullArray", "InvalidOperation"
            )
        if not isinstance(owner, list | bytearray | str) or not isinstance(wanted, int):
            raise PowerShellError("Unable to index into this object.", "CannotIndex")
        if not -len(owner) <= wanted < len(owner):
            raise PowerShellError(
                "Index was outside the bounds of the array.",
                "System.IndexOutOfRangeException",
                "OperationStopped",
            )
        return owner[wanted]

    def _cast(self, expression: Cast) -> object:
        name = expression.type_name
        if name.lower() == "pscustomobject":
            if not isinstance(expression.operand, HashLiteral):
                raise OutsideSubsetError(expression.line, "[pscustomobject] of anything but @{}")
            return PSObject(self._entries(expression.operand))
        return cast(self._session.world, name, self._evaluate(expression.operand))

    def _entries(self, literal: HashLiteral) -> list[tuple[str, object]]:
        names = [name.lower() for name, _ in literal.entries]
        if len(set(names)) != len(names):
            raise PowerShellError("Duplicate keys are not allowed.", "DuplicateKeyInHashLiteral")
        return [(name, self._capture(value)) for name, value in literal.entries]

    def _binary(self, expression: Binary) -> object:
        left, right = self._evaluate(expression.left), self._evaluate(expression.right)
        operators = {"-eq": are_equal, "-contains": contains, "-bor": combine_flags}
        return operators[expression.operator](left, right)
