"""PowerShell's conversions and comparisons of values, as far as the scripts use them."""

import uuid
from collections.abc import Callable

from hyperv.values import (
    NO_OUTPUT,
    DotNet,
    EnumValue,
    HostObject,
    PowerShellError,
    World,
    each,
    text_of,
    to_integer,
)

_RANGES = {
    "byte": (0, 0xFF),
    "uint16": (0, 0xFFFF),
    "uint32": (0, 0xFFFF_FFFF),
    "uint64": (0, 0xFFFF_FFFF_FFFF_FFFF),
    "int": (-0x8000_0000, 0x7FFF_FFFF),
    "long": (-0x8000_0000_0000_0000, 0x7FFF_FFFF_FFFF_FFFF),
}
_ALIASES = {
    "system.byte": "byte",
    "system.uint16": "uint16",
    "system.uint32": "uint32",
    "system.uint64": "uint64",
    "int32": "int",
    "system.int32": "int",
    "int64": "long",
    "system.int64": "long",
    "system.string": "string",
    "system.boolean": "bool",
    "system.double": "double",
    "system.guid": "guid",
    "system.object": "object",
    "system.void": "void",
}


def is_true(value: object) -> bool:
    """A value as the condition of an `if`."""
    if isinstance(value, list | bytearray):
        return len(value) > 1 or (len(value) == 1 and is_true(value[0]))
    if value is NO_OUTPUT:
        return False
    if isinstance(value, EnumValue):
        return value.number != 0
    if value is None or isinstance(value, bool | int | float | str):
        return bool(value)
    return True


def are_equal(left: object, right: object) -> bool:
    """`$left -eq $right` of two single values: the left one decides how they are compared."""
    left, right = (None if value is NO_OUTPUT else value for value in (left, right))
    if isinstance(left, list | bytearray):
        raise PowerShellError("-eq of an array is a filter; compare single values", "ArrayCompare")
    if left is None or right is None:
        return left is right
    if isinstance(left, str | uuid.UUID | EnumValue):
        return text_of(left).lower() == text_of(right).lower()
    if isinstance(left, bool):
        return left == is_true(right)
    if isinstance(left, int | float):
        return _equals_number(left, right)
    return left is right


def _equals_number(left: float, right: object) -> bool:
    if isinstance(right, str):
        try:
            return left == float(right)
        except ValueError:
            return False
    return isinstance(right, int | float) and left == right


def contains(left: object, right: object) -> bool:
    """`$left -contains $right`."""
    return any(are_equal(item, right) for item in each(left))


def combine_flags(left: object, right: object) -> EnumValue:
    """`$left -bor $right` of two values of one enumeration."""
    if not (isinstance(left, EnumValue) and isinstance(right, EnumValue)):
        raise PowerShellError("-bor is for values of enumerations", "OperatorFailed")
    return EnumValue(f"{left.name}, {right.name}", left.number | right.number)


def find_type(world: World, name: str) -> DotNet:
    """The modelled class of this name, in any case; TypeNotFound where there is none."""
    known = world.types.get(name.lower())
    if known is None:
        raise PowerShellError(f"Unable to find type [{name}].", "TypeNotFound", "InvalidOperation")
    return known


def cast(world: World, name: str, value: object) -> object:
    """`[name] $value`."""
    short = _ALIASES.get(name.lower(), name.lower())
    if short.endswith("[]"):
        return _cast_array(world, short.removesuffix("[]"), value)
    if short in _RANGES:
        return _cast_integer(short, value)
    converters: dict[str, Callable[[object], object]] = {
        "string": text_of,
        "bool": is_true,
        "double": lambda given: float(text_of(given) or "0"),
        "guid": lambda given: uuid.UUID(text_of(given)),
        "object": lambda given: given,
        "void": lambda _: NO_OUTPUT,
    }
    converter = converters.get(short) or find_type(world, name).cast
    if converter is None:
        if value is None or isinstance(value, HostObject):
            return value  # whether it fits the class is not modelled
        raise _invalid_cast(name, value)
    try:
        return converter(value)
    except (ValueError, TypeError) as problem:
        raise _invalid_cast(name, value) from problem


def new_array(name: str, arguments: list[object]) -> object:
    """`[byte[]]::new(size)`, zeros."""
    short = name.lower().removesuffix("[]")
    if _ALIASES.get(short, short) != "byte" or len(arguments) != 1:
        raise PowerShellError(f"[{name}]::new is not modelled", "MethodNotFound")
    return bytearray(_cast_integer("int", arguments[0]))


def _cast_array(world: World, item: str, value: object) -> object:
    short = _ALIASES.get(item, item)
    if short == "byte":
        return value if isinstance(value, bytearray) else bytearray(_bytes_of(value))
    return [cast(world, short, each_item) for each_item in each(value)]


def _bytes_of(value: object) -> list[int]:
    return [_cast_integer("byte", item) for item in each(value)]


def _cast_integer(name: str, value: object) -> int:
    try:
        number = to_integer(value)
    except ValueError as problem:
        raise _invalid_cast(name, value) from problem
    lowest, highest = _RANGES[name]
    if not lowest <= number <= highest:
        raise _invalid_cast(name, value)
    return number


def _invalid_cast(name: str, value: object) -> PowerShellError:
    return PowerShellError(
        f'Cannot convert value "{text_of(value)}" to type "{name}".',
        "InvalidCastParseTargetInvocation",
        "InvalidArgument",
    )
