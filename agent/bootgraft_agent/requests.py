"""A controller's requests, checked before anything acts on them, and the errors it is told."""

from collections.abc import Mapping
from dataclasses import dataclass

from bootgraft_agent.errors import (
    BootgraftError,
    ChangesLeftError,
    InvalidRequestError,
    OccupiedError,
)
from bootgraft_agent.plan import Options
from bootgraft_agent.secrets_mask import mask_text
from bootgraft_agent.wire import JSON

REQUESTS = ("inspect", "plan", "apply", "rollback", "power_off", "abort")
MAX_NUMBER = 2**53  # whole numbers up to here are exact in every JSON reader


@dataclass(frozen=True, slots=True)
class Request:
    """What a controller asks for; `number` is its name for it, and comes back with the reply."""

    number: int
    name: str
    options: Options
    plan_sha256: str = ""  # of an apply
    run_id: str | None = None  # of an apply; of a rollback, None there: the latest

    def asks_the_same(self, other: "Request") -> bool:
        """Whether this is the other one asked again, be it by another controller."""
        mine = (self.name, self.options, self.plan_sha256, self.run_id)
        return mine == (other.name, other.options, other.plan_sha256, other.run_id)

    @property
    def is_change(self) -> bool:
        """Whether it changes the guest."""
        return self.name in {"apply", "rollback"}


def parse_request(body: Mapping[str, JSON]) -> Request:
    """Check a message of a controller's. Raises InvalidRequestError."""
    number, name, values = read_number(body), body.get("request"), body.get("options", {})
    if number is None:
        raise InvalidRequestError(f"a request's id is a whole number from 0 to {MAX_NUMBER}")
    if not isinstance(name, str) or name not in REQUESTS:
        raise InvalidRequestError(f"unknown request; known: {', '.join(REQUESTS)}")
    if not isinstance(values, Mapping):
        raise InvalidRequestError("a request's options are an object")
    rest = dict(values)
    plan_sha256 = _pop_text(rest, "plan_sha256") if name == "apply" else None
    run_id = _pop_text(rest, "run_id") if name in {"apply", "rollback"} else None
    if name == "apply" and not (plan_sha256 and run_id):
        raise InvalidRequestError("apply needs the plan_sha256 that was shown, and a run_id")
    return Request(number, name, Options.from_json(rest), plan_sha256 or "", run_id)


def read_number(body: Mapping[str, JSON]) -> int | None:
    """Give a message's id, None for one that is none."""
    number = body.get("id")
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= MAX_NUMBER:
        return None
    return number


def _pop_text(values: dict[str, JSON], name: str) -> str | None:
    value = values.pop(name, None)
    if not isinstance(value, str | None):
        raise InvalidRequestError(f"option {name} must be text")
    return value


def describe_error(error: Exception) -> dict[str, JSON]:
    """Give an error as a reply carries it: its kind, and words without the guest's secrets."""
    if isinstance(error, InvalidRequestError):
        return _error("invalid", str(error))
    if isinstance(error, ChangesLeftError):
        return _error("changes-left", str(error))
    if isinstance(error, OccupiedError):
        return _error("occupied", str(error))
    if isinstance(error, BootgraftError | OSError):
        return _error("refused", str(error))
    return _error("internal", f"the agent failed: {type(error).__name__}: {error}")


def _error(kind: str, message: str) -> dict[str, JSON]:
    return {"kind": kind, "message": mask_text(message)}
