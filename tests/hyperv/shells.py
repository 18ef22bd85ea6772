"""PowerShell's side of a shell: psrpcore speaks the protocol, the interpreter runs the scripts."""

import hashlib
import threading
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import psrpcore
from psrpcore import types

from hyperv.powershell import run_script
from hyperv.values import PowerShellError, Session, StoppedError, World

BLOCK_SIZE = 32_768  # bytes of a pipeline's output in one Stream element
BLOCKS_AT_ONCE = 3  # in one answer, so that it stays below the client's MaxEnvelopeSize


@dataclass(frozen=True, slots=True)
class Call:
    """One script that was run, or was about to be."""

    shell_id: str
    script: str  # its file's name without .ps1, or its hash
    parameters: Mapping[str, object]


@dataclass(slots=True)
class Outbox:
    """What waits to be received, from the shell itself or from one pipeline."""

    blocks: deque[bytes] = field(default_factory=deque)
    done: bool = False
    script: str = ""


@dataclass(frozen=True, slots=True)
class Output:
    """What one Receive takes."""

    blocks: list[bytes]
    done: bool
    script: str


class Shell:
    """One runspace on the host. Its pipelines run one after another, each on its own thread.

    `before` is called in the pipeline's thread with what is about to run; `failed` with an
    exception that is no PowerShell error: a mistake in a script or in the model.
    """

    def __init__(
        self,
        shell_id: str,
        world: World,
        before: Callable[[Call, Session], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self.shell_id = shell_id
        self.gone = False
        self._session = Session(world)
        self._before = before
        self._failed = failed
        self._pool = psrpcore.ServerRunspacePool()
        self._changed = threading.Condition()
        self._turn = threading.Lock()
        self._outboxes: dict[str | None, Outbox] = {None: Outbox()}
        self._running: str | None = None
        self._stopped: set[str] = set()

    def feed(self, fragments: bytes, command_id: str | None = None) -> None:
        """Take fragments from the client, and start a pipeline when it is complete."""
        with self._changed:
            pipeline_id = None if command_id is None else uuid.UUID(command_id)
            if pipeline_id is not None and command_id not in self._outboxes:
                psrpcore.ServerPipeline(self._pool, pipeline_id)
                self._outboxes[command_id] = Outbox()
            stream = psrpcore.StreamType.default
            self._pool.receive_data(psrpcore.PSRPPayload(fragments, stream, pipeline_id))
            while (event := self._pool.next_event()) is not None:
                if isinstance(event, psrpcore.CreatePipelineEvent):
                    self._start(str(event.pipeline_id).upper())
            self._collect()

    def receive(self, command_id: str | None, timeout: float) -> Output | None:
        """Wait for output; None after `timeout` seconds without any, or when the shell is gone."""
        key = None if command_id is None else command_id.upper()
        with self._changed:
            self._changed.wait_for(lambda: self.gone or self._has_output(key), timeout)
            outbox = self._outboxes.get(key)
            if self.gone or outbox is None or not self._has_output(key):
                return None
            taken = [
                outbox.blocks.popleft() for _ in range(min(BLOCKS_AT_ONCE, len(outbox.blocks)))
            ]
            done = outbox.done and not outbox.blocks
            if done:
                del self._outboxes[key]
            return Output(taken, done, outbox.script)

    def stop(self, command_id: str) -> None:
        """Ask a pipeline to stop; one that has ended is left alone."""
        with self._changed:
            self._stopped.add(command_id.upper())
            if self._running == command_id.upper():
                self._session.stopping.set()

    def end(self) -> None:
        """The shell's process goes away, with its handles and whatever runs in it."""
        with self._changed:
            self.gone = True
            self._session.end()
            self._changed.notify_all()

    def _has_output(self, key: str | None) -> bool:
        outbox = self._outboxes.get(key)
        return outbox is not None and (bool(outbox.blocks) or outbox.done)

    def _collect(self) -> None:
        """Move what psrpcore wants sent to where it waits. The caller holds the lock."""
        while (payload := self._pool.data_to_send(BLOCK_SIZE)) is not None:
            whose = None if payload.pipeline_id is None else str(payload.pipeline_id).upper()
            if whose in self._outboxes:
                self._outboxes[whose].blocks.append(payload.data)
        self._changed.notify_all()

    def _start(self, command_id: str) -> None:
        pipeline = self._pool.pipeline_table[uuid.UUID(command_id)]
        threading.Thread(target=self._run, args=(command_id, pipeline), daemon=True).start()

    def _run(self, command_id: str, pipeline: psrpcore.ServerPipeline) -> None:
        with self._turn:
            with self._changed:
                self._session.stopping.clear()
                self._running = command_id
                if command_id in self._stopped or self.gone:
                    self._session.stopping.set()
                pipeline.start()
            output, error = self._interpret(pipeline)
            with self._changed:
                self._running = None
                _finish(pipeline, output, error)
                if command_id in self._outboxes:
                    self._outboxes[command_id].done = True
                self._collect()

    def _interpret(
        self, pipeline: psrpcore.ServerPipeline
    ) -> tuple[list[object], PowerShellError | None]:
        try:
            text, parameters = _read_command(pipeline)
            call = Call(self.shell_id, name_script(text), parameters)
            self._outboxes[str(pipeline.pipeline_id).upper()].script = call.script
            self._before(call, self._session)
            return run_script(text, parameters, self._session), None
        except PowerShellError as error:
            return [], error
        except Exception as error:  # noqa: BLE001 - handed on, and answered as a failure
            self._failed(error)
            return [], PowerShellError(f"{type(error).__name__}: {error}", "OutsideTheModel")


def _read_command(pipeline: psrpcore.ServerPipeline) -> tuple[str, dict[str, object]]:
    """The one script of a pipeline and its parameters, as plain values."""
    commands: Sequence[Any] = getattr(pipeline.metadata, "commands", ())
    if len(commands) != 1 or not commands[0].is_script:
        raise ValueError("a pipeline that is not one script")
    parameters = {str(name): _plain(value) for name, value in commands[0].parameters}
    return str(commands[0].command_text), parameters


def _plain(value: object) -> object:
    if isinstance(value, str):
        return str(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    raise ValueError(f"a parameter of type {type(value).__name__}")


def _finish(
    pipeline: psrpcore.ServerPipeline, output: list[object], error: PowerShellError | None
) -> None:
    for item in output:
        pipeline.write_output(item if item is None else str(item))
    if isinstance(error, StoppedError):
        pipeline.stop()
    elif error is not None:
        # What $ErrorActionPreference = 'Stop' makes of an error: the pipeline has failed by it.
        record = types.ErrorRecord(
            Exception=types.NETException(Message=error.message),
            CategoryInfo=types.ErrorCategoryInfo(
                Category=types.ErrorCategory[error.category], Reason="RuntimeException"
            ),
            FullyQualifiedErrorId=error.error_id,
        )
        pipeline.prepare_message(
            types.PipelineState(
                PipelineState=types.PSInvocationState.Failed.value,
                ExceptionAsErrorRecord=record,
            )
        )
        pipeline.state = types.PSInvocationState.Failed
    else:
        pipeline.complete()
    pipeline.close()


def name_script(text: str) -> str:
    """The name of the host side's script that has this text, or else the text's hash."""
    for file in resources.files("bootgraft_host.hyperv").joinpath("scripts").iterdir():
        if file.name.endswith(".ps1") and file.read_text("utf-8") == text:
            return file.name.removesuffix(".ps1")
    return hashlib.sha256(text.encode()).hexdigest()
