"""The manual console: from what was found to a graft, page by page.

What a terminal is, only the Interface knows; what a graft is, only the Actions.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from bootgraft_agent import pages, result
from bootgraft_agent.errors import BootgraftError
from bootgraft_agent.pages import AUTOMATIC, BACK, Page
from bootgraft_agent.plan import Options
from bootgraft_agent.result import Result
from bootgraft_agent.secrets_mask import mask_text
from bootgraft_agent.startup import Actions
from bootgraft_agent.volumes import Progress
from bootgraft_agent.wire import JSON

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

INTERRUPTED = "\0interrupted"  # the answer where `until` came true first


class Interface(Protocol):
    """A terminal with a person at it."""

    def ask(self, page: Page, until: Callable[[], bool] | None = None) -> str:
        """Show a page until it is answered, or until something has come; give the choice's key."""

    def read_text(self, title: str, question: str, text: str) -> str | None:
        """Have a line of text edited; None: it stays as it was."""

    def work(self, title: str, function: Callable[[Progress], _T]) -> _T:
        """Do something, and show how far it is."""

    def shell(self) -> None:
        """Lend the terminal to a root shell."""


class Power(Protocol):
    """The machine's switch."""

    def off(self) -> None:
        """Switch the machine off."""

    def restart(self) -> None:
        """Start the machine again."""


@dataclass(slots=True)
class Console:
    """One person's work at the machine; `can_leave` where a controller may come, too."""

    interface: Interface
    actions: Actions
    power: Power
    options: Options
    problems: Sequence[str]
    new_run_id: Callable[[], str]
    can_leave: bool
    _found: Mapping[str, JSON] | None = field(default=None, init=False)

    def run(self) -> None:
        """Work until the person leaves the machine to a controller."""
        while True:
            try:
                if self._step() == "leave":
                    return
            except (BootgraftError, OSError) as error:
                self._say("That was not possible", str(error))
            except Exception as error:  # noqa: BLE001 - a person must always get on
                _log.error("the console failed", exc_info=error)
                self._say("bootgraft itself failed", f"{type(error).__name__}: {error}")

    def _step(self) -> str:
        """Show the first page and do what is chosen there; give the choice."""
        if self._found is None:
            self._found = self._look()
        first = pages.overview(self._found, self.options, self.problems, can_leave=self.can_leave)
        choice = self.interface.ask(first)
        handlers: dict[str, Callable[[], None]] = {
            "plan": self._plan,
            "payload": self._await_payload,
            "choose": self._choose,
            "rollback": self._roll_back,
            "again": self._forget,
            "shell": self._shell,
            "restart": self._restart,
            "off": self._off,
            "leave": self._forget,
        }
        handlers[choice]()
        return choice

    def _look(self) -> Mapping[str, JSON]:
        return self.interface.work(
            "Looking at this machine's disks", lambda _: self.actions.inspect(self.options)
        )

    def _forget(self) -> None:
        """Look at the machine anew before the first page is shown again."""
        self._found = None

    # Graft

    def _plan(self) -> None:
        plan = self.interface.work("Planning", lambda _: self.actions.plan(self.options))
        while True:
            choice = self.interface.ask(pages.plan_page(plan))
            if choice == "diffs":
                self.interface.ask(pages.diff_page(plan))
            elif choice == "graft":
                if self.interface.ask(pages.confirm_page(plan)) == "yes":
                    self._graft(plan)
                    return
            else:
                if choice == "off":
                    self._off()
                return

    def _graft(self, plan: Mapping[str, JSON]) -> None:
        run_id = self.new_run_id()
        record: dict[str, JSON] = {
            "plan": {key: value for key, value in plan.items() if key != "facts"}
        }

        def graft(progress: Progress) -> Result:
            try:
                applied = self.actions.apply(
                    self.options, str(plan["plan_sha256"]), run_id, progress
                )
            except (BootgraftError, OSError) as error:
                return result.failed(error, record, run_id, words=pages.console_words)
            return result.grafted(run_id, applied, record)

        self._forget()
        done = self.interface.work("Grafting", graft)
        self._keep(done)
        self._show_result(done)

    def _keep(self, done: Result) -> None:
        """Keep the result beside the backups, where there are any."""
        if done.run_id is None:
            return
        run_id, content = done.run_id, result.file_content(done)
        try:
            self.interface.work(
                "Keeping the record beside the backups",
                lambda _: self.actions.keep_result(self.options, run_id, content),
            )
        except (BootgraftError, OSError) as error:
            self._say("The record could not be kept beside the backups", str(error))

    def _show_result(self, done: Result) -> None:
        while True:
            choice = self.interface.ask(pages.result_page(done))
            if choice == "record":
                record = json.dumps(done.to_document(), indent=1)
                self._say("The whole record", record)
            elif choice == "off":
                self._off()
            else:
                return

    # Rollback

    def _roll_back(self) -> None:
        listed = self.interface.work(
            "Looking for grafts", lambda _: self.actions.list_runs(self.options)
        )
        known = pages.mappings(listed["runs"])
        if self.interface.ask(pages.rollback_page(known)) != "yes":
            return
        run_id = str(known[0]["run_id"])

        def roll_back(progress: Progress) -> Result:
            try:
                done = self.actions.rollback(self.options, run_id, progress)
            except (BootgraftError, OSError) as error:
                return result.failed(error, {}, run_id, words=pages.console_words)
            return result.rolled_back(done)

        self._forget()
        self._show_result(self.interface.work("Taking the graft back", roll_back))

    # Choices

    def _choose(self) -> None:
        assert self._found is not None  # noqa: S101 - it was shown
        found = self._found
        while (name := self.interface.ask(pages.choose_page(self.options))) != BACK:
            if name == "shim_args":
                self._read_shim_arguments()
                continue
            value = self.interface.ask(pages.candidates_page(name, self.options, found))
            if value != BACK:
                chosen = None if value == AUTOMATIC else value
                self.options = replace(self.options, **{name: chosen})
        self._forget()

    def _read_shim_arguments(self) -> None:
        label = pages.LABELS["shim_args"]
        text = self.interface.read_text(
            label,
            "Type what the shim is to get. Nothing typed: it gets none.",
            self.options.shim_args or "",
        )
        if text is None:
            return
        chosen = replace(self.options, shim_args=text or None)
        chosen.check()
        self.options = chosen

    # The rest

    def _await_payload(self) -> None:
        def has_come() -> bool:
            return self.actions.look_for_payload() is None

        self.interface.ask(pages.payload_page(), until=has_come)
        self._forget()

    def _shell(self) -> None:
        self.interface.shell()
        self._forget()

    def _restart(self) -> None:
        if self.interface.ask(pages.restart_page()) == "yes":
            self.power.restart()

    def _off(self) -> None:
        if self.interface.ask(pages.off_page()) == "yes":
            self.power.off()

    def _say(self, title: str, text: str) -> None:
        self.interface.ask(pages.message_page(title, mask_text(text)))
