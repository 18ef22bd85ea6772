"""What the modelled .NET classes share: how their exceptions reach a script."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from hyperv.model_object import ModelObject
from hyperv.values import DotNet, PowerShellError

Method = Callable[..., object]
Methods = Mapping[str, Method]


class NetError(Exception):
    """An exception of .NET, by the name of its class."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class NetObject(ModelObject):
    """An instance of a modelled class: its methods' exceptions become PowerShell's.

    A method of any overload that is not listed here is an error, as is a wrong count of arguments.
    """

    net_methods: ClassVar[Methods] = {}

    def methods(self) -> Mapping[str, Method]:
        def bound(name: str, method: Method) -> Method:
            return lambda *arguments: invoke(name, method, (self, *arguments), len(arguments))

        return {name: bound(name, method) for name, method in self.net_methods.items()}


def net_class(
    name: str,
    *,
    constructor: Method | None = None,
    static_methods: Mapping[str, Method] | None = None,
    static_properties: Mapping[str, Callable[[], object]] | None = None,
) -> DotNet:
    """Make a class; constructor and static methods get the Session first."""

    def static(called: str, method: Method) -> Method:
        return lambda *arguments: invoke(called, method, arguments, len(arguments) - 1)

    return DotNet(
        name,
        static(".ctor", constructor) if constructor is not None else None,
        {each: static(each, method) for each, method in (static_methods or {}).items()},
        dict(static_properties or {}),
    )


def invoke(name: str, method: Method, arguments: Iterable[Any], count: int) -> object:
    """Call a method; what it raises comes out as PowerShell's MethodInvocationException."""
    given = tuple(arguments)
    try:
        inspect.signature(method).bind(*given)
    except TypeError as error:
        raise PowerShellError(
            f'Cannot find an overload for "{name}" and the argument count: "{count}".',
            "MethodCountCouldNotFindBest",
            "NotSpecified",
        ) from error
    try:
        return method(*given)
    except NetError as error:
        raise PowerShellError(
            f'Exception calling "{name}" with "{count}" argument(s): "{error}"',
            error.kind,
            "NotSpecified",
        ) from error
