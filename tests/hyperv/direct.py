"""A Runner without a wire: the host side's scripts, interpreted in this process."""

import threading
from collections.abc import Mapping
from typing import Protocol

from bootgraft_agent.wire import JSON
from bootgraft_host.hyperv.runner import (
    DEFAULT_TIMEOUT,
    ScriptError,
    encode_request,
    only_text,
    parse_answer,
    read_script,
)
from hyperv.powershell import run_script
from hyperv.values import PowerShellError, Session, World


class Host(Protocol):
    """What the scripts act on."""

    def world(self) -> World:
        """The commands and classes of this host."""


class DirectRunner:
    """Runs the real scripts on a modelled host, without a timeout.

    `calls` holds (script, asked) in order, also those of the runners that `another` gave.
    A subclass overrides `run` for a fault on the way: before the script, or after it.
    """

    def __init__(self, modelled: Host, host: str = "hv1.example.com") -> None:
        self._modelled = modelled
        self._host = host
        self._session: Session | None = None
        self._turn = threading.Lock()
        self.calls: list[tuple[str, Mapping[str, JSON]]] = []

    @property
    def host(self) -> str:
        """The host's name in a target."""
        return self._host

    def run(
        self,
        script: str,
        asked: Mapping[str, JSON] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> list[Mapping[str, JSON]]:
        """Interpret a script. An OutsideSubsetError is a mistake in it and goes through."""
        self.calls.append((script, dict(asked or {})))
        with self._turn:
            try:
                output = self._interpret(script, {"Request": encode_request(asked)})
            except PowerShellError as error:
                raise ScriptError(
                    self._host, script, error.error_id, error.category, error.message
                ) from error
        return parse_answer(only_text(output, script, self._host), script, self._host)

    def _interpret(self, script: str, parameters: Mapping[str, object]) -> list[object]:
        if self._session is None:
            self._session = Session(self._modelled.world())
        return run_script(read_script(script), parameters, self._session)

    def another(self) -> "DirectRunner":
        """Give a session of its own on the same host."""
        other = DirectRunner(self._modelled, self._host)
        other.calls = self.calls
        return other

    def close(self) -> None:
        """End the session, with what it holds."""
        if self._session is not None:
            self._session.end()
            self._session = None
