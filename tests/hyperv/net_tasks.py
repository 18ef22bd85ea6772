"""System.Threading of the modelled host: tasks, cancellation, and delegates to methods."""

import threading
import time
from collections.abc import Callable
from typing import ClassVar

from hyperv.model_object import Readers
from hyperv.net_object import Methods, NetError, NetObject, net_class
from hyperv.values import (
    DotNet,
    Enumeration,
    EnumValue,
    HostObject,
    PowerShellError,
    Session,
    StoppedError,
    enum_type,
)

TASK_STATUS = Enumeration(
    "System.Threading.Tasks.TaskStatus",
    {
        "Created": 0,
        "WaitingForActivation": 1,
        "WaitingToRun": 2,
        "Running": 3,
        "WaitingForChildrenToComplete": 4,
        "RanToCompletion": 5,
        "Canceled": 6,
        "Faulted": 7,
    },
)
POLL = 0.05  # seconds between looks at whether a wait was called off

_changed = threading.Condition()  # of any task


class Task(NetObject):
    """System.Threading.Tasks.Task, and Task<int> where it has a result."""

    type_name = "System.Threading.Tasks.Task"
    readers: ClassVar[Readers] = {
        "IsCompleted": lambda task: task.is_completed,
        "IsFaulted": lambda task: task.status.name == "Faulted",
        "IsCanceled": lambda task: task.status.name == "Canceled",
        "Status": lambda task: task.status,
        "Result": lambda task: task.result(),
    }

    def __init__(self, session: Session) -> None:
        self._session = session
        self._status = "WaitingForActivation"
        self._error: NetError | None = None
        self._result: object = None

    @classmethod
    def run(cls, session: Session, work: Callable[[], object]) -> "Task":
        """Do the work in a thread of its own."""
        task = cls(session)
        threading.Thread(target=task._work, args=(work,), daemon=True).start()
        return task

    @classmethod
    def delay(cls, session: Session, milliseconds: int) -> "Task":
        """Task.Delay: 0 is complete at once."""
        task = cls(session)
        if milliseconds == 0:
            task._end("RanToCompletion")
            return task
        timer = threading.Timer(milliseconds / 1000, task._end, ("RanToCompletion",))
        timer.daemon = True
        timer.start()
        session.at_end.append(timer.cancel)
        return task

    @property
    def status(self) -> EnumValue:
        return TASK_STATUS.value(self._status)

    @property
    def is_completed(self) -> bool:
        return self._status in ("RanToCompletion", "Canceled", "Faulted")

    def result(self) -> object:
        """Wait for it, and give what it gave."""
        self.wait()
        return self._result

    def wait(self, milliseconds: int = -1) -> bool:
        if not wait_any(self._session, [self], milliseconds):
            return False
        if self._error is not None:
            raise NetError("AggregateException", f"One or more errors occurred. ({self._error})")
        return True

    net_methods: ClassVar[Methods] = {"Wait": wait}

    def _work(self, work: Callable[[], object]) -> None:
        try:
            self._result = work()
        except NetError as error:
            self._error = error
            self._end("Canceled" if error.kind == "OperationCanceledException" else "Faulted")
        else:
            self._end("RanToCompletion")

    def _end(self, status: str) -> None:
        with _changed:
            self._status = status
            _changed.notify_all()


def wait_any(session: Session, tasks: list[Task], milliseconds: int) -> bool:
    """Wait until one of the tasks is complete; False where none is in time."""
    deadline = None if milliseconds < 0 else time.monotonic() + milliseconds / 1000
    with _changed:
        while not any(task.is_completed for task in tasks):
            if session.stopping.is_set():
                raise StoppedError
            left = POLL if deadline is None else min(POLL, deadline - time.monotonic())
            if left <= 0:
                return False
            _changed.wait(left)
    return True


def _wait_any(session: Session, tasks: object, milliseconds: int = -1) -> int:
    if not isinstance(tasks, list) or not tasks or not all(isinstance(t, Task) for t in tasks):
        raise NetError("ArgumentException", "The tasks array included at least one null element.")
    if not wait_any(session, tasks, milliseconds):
        return -1
    return next(number for number, task in enumerate(tasks) if task.is_completed)


class Delegate(HostObject):
    """A System.Action that calls a method without arguments of an object."""

    type_name = "System.Action"

    def __init__(self, target: HostObject, method: str) -> None:
        self._target = target
        self._method = method

    def invoke(self) -> None:
        self._target.call(self._method, ())


def _create_delegate(_: Session, kind: object, target: object, method: object) -> Delegate:
    known = target.methods() if isinstance(target, HostObject) else {}
    if not isinstance(kind, DotNet) or kind.name != "System.Action":
        raise PowerShellError("CreateDelegate is modelled for System.Action", "NotModelled")
    # Without an argument that says otherwise, .NET looks for the name as it is spelled.
    if not isinstance(target, HostObject) or not isinstance(method, str) or method not in known:
        raise NetError("ArgumentException", "Cannot bind to the target method.")
    return Delegate(target, method)


class CancellationTokenSource(NetObject):
    """System.Threading.CancellationTokenSource; what was registered runs in the timer's thread."""

    type_name = "System.Threading.CancellationTokenSource"
    readers: ClassVar[Readers] = {
        "Token": lambda source: CancellationToken(source),
        "IsCancellationRequested": lambda source: source.cancelled,
    }

    def __init__(self, session: Session) -> None:
        self.cancelled = False
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._registered: list[Delegate] = []
        session.at_end.append(self._stop_timer)

    def register(self, delegate: Delegate) -> None:
        with self._lock:
            if not self.cancelled:
                self._registered.append(delegate)
                return
        delegate.invoke()

    def cancel(self) -> None:
        self._stop_timer()
        with self._lock:
            if self.cancelled:
                return
            self.cancelled = True
            registered, self._registered = self._registered, []
        for delegate in registered:
            delegate.invoke()

    def cancel_after(self, milliseconds: int) -> None:
        with self._lock:
            if self.cancelled:
                return
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(milliseconds / 1000, self.cancel)
            self._timer.daemon = True
            self._timer.start()

    def _stop_timer(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()

    net_methods: ClassVar[Methods] = {
        "Cancel": cancel,
        "CancelAfter": cancel_after,
        "Dispose": _stop_timer,
    }


class CancellationToken(NetObject):
    """System.Threading.CancellationToken."""

    type_name = "System.Threading.CancellationToken"
    readers: ClassVar[Readers] = {"IsCancellationRequested": lambda token: token.source.cancelled}

    def __init__(self, source: CancellationTokenSource) -> None:
        self.source = source

    def register(self, delegate: object) -> HostObject:
        if not isinstance(delegate, Delegate):
            raise PowerShellError("Register is modelled for a delegate", "NotModelled")
        self.source.register(delegate)
        return HostObject()

    net_methods: ClassVar[Methods] = {"Register": register}


def task_types() -> list[DotNet]:
    """The classes of System.Threading that scripts use."""
    return [
        enum_type(TASK_STATUS),
        net_class(
            "System.Threading.Tasks.Task",
            static_methods={"WaitAny": _wait_any, "Delay": Task.delay},
        ),
        net_class("System.Threading.CancellationTokenSource", constructor=CancellationTokenSource),
        net_class("System.Delegate", static_methods={"CreateDelegate": _create_delegate}),
        DotNet("System.Action"),
    ]
