"""Unattended mode: inspect, plan, graft, verify, without a question; every wait is bounded."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from bootgraft_agent.errors import BootgraftError, InvalidRequestError
from bootgraft_agent.parameters import Parameters
from bootgraft_agent.result import (
    Result,
    already_grafted,
    failed,
    file_content,
    grafted,
    without_payload,
)
from bootgraft_agent.startup import Actions
from bootgraft_agent.wire import JSON

POLL = 3.0  # seconds between two looks for a payload


class Clock(Protocol):
    """Time as it passes; a test's passes faster."""

    def monotonic(self) -> float:
        """Give seconds since some moment."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class _SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


SYSTEM_CLOCK = _SystemClock()


@dataclass(slots=True)
class Unattended:
    """One unattended run; `tell` shows a line of progress and must not wait."""

    actions: Actions
    parameters: Parameters
    run_id: str
    tell: Callable[[str], None]
    clock: Clock = SYSTEM_CLOCK
    may_have_changed: bool = field(default=False, init=False)  # the guest, up to now

    def run(self) -> Result:
        """Graft the machine, or find out why not; whatever happens, give a result."""
        record: dict[str, JSON] = {}
        try:
            result = self._run(record)
        except Exception as error:  # noqa: BLE001 - the result says it, and the machine goes off
            result = failed(error, record, self.run_id)
        return self._kept(result)

    def _run(self, record: dict[str, JSON]) -> Result:
        if self.parameters.problems:
            raise InvalidRequestError("; ".join(self.parameters.problems))
        options = self.parameters.options
        self.tell("looking at the machine's disks")
        found = self._inspect(record)
        if _needs_payload(found) or self._may_want_recipes(found):
            if _is_grafted(found):
                return already_grafted(record)
            problem = self._await_payload()
            if problem is not None:
                return without_payload(problem, record)
            self._inspect(record)
        self.tell("planning the graft")
        plan = self.actions.plan(options)
        record["plan"] = {key: value for key, value in plan.items() if key != "facts"}
        if plan["already_grafted"]:
            return already_grafted(record)
        self.may_have_changed = True
        applied = self.actions.apply(options, str(plan["plan_sha256"]), self.run_id, self._progress)
        return grafted(self.run_id, applied, record)

    def _inspect(self, record: dict[str, JSON]) -> Mapping[str, JSON]:
        found = self.actions.inspect(self.parameters.options)
        record["inspection"] = found
        return found

    def _may_want_recipes(self, found: Mapping[str, JSON]) -> bool:
        """Whether a Linux guest was found that only a payload could say recipes for."""
        facts = found.get("facts")
        linux = facts.get("linux") if isinstance(facts, Mapping) else None
        return (
            self.parameters.options.recipe is None
            and _guest(found) is None
            and isinstance(linux, Mapping)
            and linux.get("root") is not None
            and found.get("problem") is not None
            and self.actions.look_for_payload() is not None
        )

    def _await_payload(self) -> str | None:
        """Wait for a payload as long as that may take; give why there is none."""
        deadline = self.clock.monotonic() + self.parameters.payload_wait
        problem = self.actions.look_for_payload()
        while problem is not None and self.clock.monotonic() < deadline:
            left = max(0.0, deadline - self.clock.monotonic())
            self.tell(f"waiting {left:.0f} s for a DVD with the directory shim or recipes")
            self.clock.sleep(min(POLL, left))
            problem = self.actions.look_for_payload()
        return problem

    def _progress(self, text: str, done: int, total: int) -> None:
        if done == total:
            self.tell(text)

    def _kept(self, result: Result) -> Result:
        """Keep the result beside the backups, if the guest was changed."""
        if result.run_id is None:
            return result
        try:
            self.actions.keep_result(self.parameters.options, result.run_id, file_content(result))
        except (BootgraftError, OSError) as error:
            self.tell(f"the result could not be kept beside the backups: {error}")
        return result


def _guest(found: Mapping[str, JSON]) -> Mapping[str, JSON] | None:
    facts = found.get("facts")
    guest = facts.get("guest") if isinstance(facts, Mapping) else None
    return guest if isinstance(guest, Mapping) else None


def _needs_payload(found: Mapping[str, JSON]) -> bool:
    guest = _guest(found)
    return guest is not None and guest.get("payload") is None


def _is_grafted(found: Mapping[str, JSON]) -> bool:
    guest = _guest(found)
    return guest is not None and guest.get("grafted_entry") is not None
