"""Binding arguments to a command's parameters, with PowerShell's own refusals."""

from collections.abc import Iterator
from dataclasses import dataclass

from hyperv.values import NO_OUTPUT, Command, ParameterType, PowerShellError, convert_argument


@dataclass(frozen=True, slots=True)
class Given:
    """One word after a command's name: `-Name`, `-Name:value` or a value, evaluated."""

    name: str | None
    value: object = None
    has_value: bool = False


def bind(command: Command, words: list[Given]) -> dict[str, object]:
    """The arguments by the spelling of the command's parameters, converted to their types."""
    bound: dict[str, object] = {}
    for given, value in _pair(command, words):
        name, wanted = _parameter(command, given)
        if name in bound:
            raise _refusal(
                command,
                "ParameterAlreadyBound",
                f"Cannot bind parameter because parameter '{name}' is specified more than once.",
            )
        bound[name] = convert_argument(command.name, name, wanted, value)
        if name in command.mandatory:
            _refuse_empty(command, name, bound[name])
    missing = sorted(command.mandatory - bound.keys())
    if missing:
        raise _refusal(
            command,
            "MissingMandatoryParameter",
            "Cannot process command because of one or more missing mandatory parameters:"
            f" {' '.join(missing)}.",
        )
    return bound


def _pair(command: Command, words: list[Given]) -> Iterator[tuple[str, object]]:
    """Each parameter's name with its value, as they follow one another."""
    waiting: str | None = None
    for word in words:
        if word.name is None:
            if waiting is None:
                raise _refusal(
                    command,
                    "PositionalParameterNotFound",
                    f"A positional parameter cannot be found that accepts argument '{word.value}'.",
                )
            yield waiting, None if word.value is NO_OUTPUT else word.value
            waiting = None
            continue
        if waiting is not None:
            raise _missing_argument(command, waiting)
        if word.has_value:
            yield word.name, None if word.value is NO_OUTPUT else word.value
        elif _parameter(command, word.name)[1] == "switch":
            yield word.name, True
        else:
            waiting = word.name
    if waiting is not None:
        raise _missing_argument(command, waiting)


def _parameter(command: Command, given: str) -> tuple[str, ParameterType]:
    for name, wanted in command.parameters.items():
        if name.lower() == given.lower():
            return name, wanted
    raise _refusal(
        command,
        "NamedParameterNotFound",
        f"A parameter cannot be found that matches parameter name '{given}'.",
    )


def _refuse_empty(command: Command, name: str, value: object) -> None:
    kinds: tuple[tuple[str, object], ...] = (
        ("Null", None),
        ("EmptyString", ""),
        ("EmptyArray", []),
    )
    for kind, empty in kinds:
        if type(value) is type(empty) and value == empty:
            raise PowerShellError(
                f"Cannot bind argument to parameter '{name}' because it is null or empty.",
                f"ParameterArgumentValidationError{kind}NotAllowed,{command.name}",
                "InvalidData",
            )


def _missing_argument(command: Command, name: str) -> PowerShellError:
    return _refusal(
        command,
        "MissingArgument",
        f"Missing an argument for parameter '{name}'. Specify a parameter and try again.",
    )


def _refusal(command: Command, error_id: str, message: str) -> PowerShellError:
    return PowerShellError(message, f"{error_id},{command.name}", "InvalidArgument")
