"""Scripts run by Windows PowerShell on this computer, where it is the Hyper-V host itself.

Each run is a process of its own, `powershell.exe -File scripts/local/launch.ps1 -Script NAME.ps1`:
the request on its standard input, the answer as one line of ASCII on its standard output. What
else either side prints is noise. Never tried on Windows.
"""

import base64
import binascii
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from bootgraft_agent.wire import JSON
from bootgraft_host.hyperv.runner import (
    DEFAULT_TIMEOUT,
    HostError,
    ScriptError,
    UnreachableError,
    encode_request,
    only_text,
    parse_answer,
)

ANSWER_MARK = b"bootgraft-answer "
NOISE_LIMIT = 500  # characters of a failed process's output that a message shows
_HERE = "this computer"  # in messages

_LOGGER = logging.getLogger(__name__)

if sys.platform == "win32":  # Ctrl+C at the controller is not for the script
    _CREATION_FLAGS = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
else:
    _CREATION_FLAGS = 0


class LocalRunner:
    """Runs scripts on this computer; nothing is kept between two runs."""

    def __init__(self, program: str | None = None) -> None:
        """Use `program` as powershell.exe."""
        self._program = program or _find_powershell(os.environ)

    @property
    def host(self) -> str:
        """This computer, as in hyperv://./VM."""
        return "."

    def run(
        self,
        script: str,
        asked: Mapping[str, JSON] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> list[Mapping[str, JSON]]:
        """Run scripts/`script`.ps1 in a process of its own; see Runner."""
        folder = resources.files(__package__) / "scripts"
        with (
            resources.as_file(folder / "local" / "launch.ps1") as launcher,
            resources.as_file(folder / f"{script}.ps1") as path,
        ):
            command = _command(self._program, launcher, path)
            document = self._launch(command, script, encode_request(asked), timeout)
        return parse_answer(_take_output(document, script), script, _HERE)

    def another(self) -> "LocalRunner":
        """Give an equal runner: a run shares nothing with the one before anyway."""
        return LocalRunner(self._program)

    def close(self) -> None:
        """Do nothing: no session is kept."""

    def _launch(self, command: list[str], script: str, request: str, timeout: float) -> object:
        _LOGGER.debug("running %s", command)
        try:
            # On Windows, writing to a pipe that nobody reads would know no timeout.
            with tempfile.TemporaryFile() as file:
                file.write(request.encode("ascii"))
                file.seek(0)
                process = subprocess.Popen(
                    command,
                    stdin=file,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    creationflags=_CREATION_FLAGS,
                    env=_environment(os.environ),
                )
        except OSError as error:
            raise HostError(
                f"cannot run {self._program}: {error.strerror}. hyperv://./VM is for a controller"
                " on the Hyper-V host itself; from elsewhere, name the host: hyperv://HOST/VM"
            ) from error
        with process:
            try:
                output, noise = process.communicate(timeout=timeout)
            except BaseException as error:
                process.kill()
                if isinstance(error, subprocess.TimeoutExpired):
                    raise UnreachableError(
                        f"{script} did not answer within {timeout:g} s on this computer, and"
                        " PowerShell was stopped; it is not known how far it came"
                    ) from error
                raise
        document = _find_answer(output)
        if document is None:
            raise HostError(
                f"{script} gave no answer on this computer: PowerShell ended with status"
                f" {process.returncode} and said {_shorten(noise or output)}"
            )
        return document


def _find_powershell(environment: Mapping[str, str]) -> str:
    """Name Windows PowerShell by its path, so that no other program of its name is run."""
    system = environment.get("SystemRoot")
    if system is None:
        return "powershell.exe"
    return str(Path(system, "System32", "WindowsPowerShell", "v1.0", "powershell.exe"))


def _command(program: str, launcher: Path, script: Path) -> list[str]:
    settings = ("-NoLogo", "-NoProfile", "-NonInteractive", "-ExecutionPolicy", "Bypass")
    return [program, *settings, "-File", str(launcher), "-Script", str(script)]


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Leave out where modules are: under PowerShell 7, these are not Windows PowerShell's.

    Source: learn.microsoft.com, about_PSModulePath, and PowerShell/PowerShell issue 27774.
    """
    return {name: text for name, text in ours.items() if name.upper() != "PSMODULEPATH"}


def _find_answer(output: bytes) -> object:
    """Find the launcher's document; None where there is none that is whole."""
    for line in output.splitlines():
        if line.startswith(ANSWER_MARK):
            try:
                return json.loads(base64.b64decode(line.removeprefix(ANSWER_MARK), validate=True))
            except (binascii.Error, ValueError):
                return None
    return None


def _take_output(document: object, script: str) -> str:
    match document:
        case {"Output": list(), "Errors": [{**error}]}:
            raise ScriptError(
                _HERE,
                script,
                error_id=str(error.get("FullyQualifiedErrorId")),
                category=str(error.get("Category")),
                detail=str(error.get("Message")),
            )
        case {"Output": list(output), "Errors": []}:
            return only_text(output, script, _HERE)
    raise HostError(
        f"{script} on this computer gave an answer of an unknown form: {document!r:.200}"
    )


def _shorten(output: bytes) -> str:
    text = " ".join(output.decode("utf-8", "replace").split())
    return repr(text if len(text) <= NOISE_LIMIT else f"{text[:NOISE_LIMIT]}...")
