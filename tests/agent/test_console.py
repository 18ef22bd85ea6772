"""The manual console, page by page, with a person who answers as a test says."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

import pytest

from agent.machine_actions import (
    NO_PAYLOAD,
    PLAN_SHA256,
    ToldActions,
    guest,
    inspection,
    partition,
    plan,
)
from bootgraft_agent.banner import wrapped
from bootgraft_agent.console import INTERRUPTED, Console
from bootgraft_agent.errors import ChangesLeftError, RefusedError
from bootgraft_agent.pages import Page
from bootgraft_agent.plan import Options
from bootgraft_agent.volumes import Progress
from bootgraft_agent.wire import JSON

_T = TypeVar("_T")


class DoneError(BaseException):
    """The person has gone; what was seen is looked at now."""


@dataclass
class Person:
    """Answers each page in turn; a page with another title than expected fails the test."""

    answers: Sequence[tuple[str, str]]
    seen: list[Page] = field(default_factory=list)
    texts: list[str | None] = field(default_factory=list)
    shells: int = 0

    def ask(self, page: Page, until: Callable[[], bool] | None = None) -> str:
        self.seen.append(page)
        number = len(self.seen) - 1
        if number == len(self.answers):
            raise DoneError
        title, key = self.answers[number]
        assert page.title == title
        if until is not None and key == INTERRUPTED:
            assert until()
            return key
        assert key in {choice.key for choice in page.choices}, page
        return key

    def read_text(self, title: str, question: str, text: str) -> str | None:
        return self.texts.pop(0)

    def work(self, title: str, function: Callable[[Progress], _T]) -> _T:
        return function(lambda text, done, total: None)

    def shell(self) -> None:
        self.shells += 1


@dataclass
class Switch:
    """The machine's switch, and what was done with it."""

    used: list[str] = field(default_factory=list)

    def off(self) -> None:
        self.used.append("off")

    def restart(self) -> None:
        self.used.append("restart")


@dataclass
class Visit:
    """A person at a machine as told, from the first page to where the answers end."""

    actions: ToldActions
    person: Person
    switch: Switch = field(default_factory=Switch)
    console: Console = field(init=False)

    @property
    def last(self) -> str:
        """Return the text of the last page."""
        return "\n".join(self.person.seen[-1].body)

    @property
    def labels(self) -> list[str]:
        """Return the choices of the last page."""
        return [choice.key for choice in self.person.seen[-1].choices]


def visit(
    actions: ToldActions,
    *answers: tuple[str, str],
    options: Options | None = None,
    problems: Sequence[str] = (),
    texts: Sequence[str | None] = (),
    can_leave: bool = False,
) -> Visit:
    """Let a person answer page after page."""
    made = Visit(actions, Person(answers, texts=list(texts)))
    made.console = Console(
        interface=made.person,
        actions=actions,
        power=made.switch,
        options=options or Options(),
        problems=problems,
        new_run_id=lambda: "manual-1",
        can_leave=can_leave,
    )
    try:
        made.console.run()
    except DoneError:
        return made
    made.person.seen.append(Page("gone", (), (), ""))
    return made


FIRST = "This machine"
PLAN = (FIRST, "plan")


def test_the_first_page_says_what_was_found_and_that_nothing_was_written() -> None:
    made = visit(ToldActions(), problems=["the boot parameter bootgraft.x is unknown"])
    assert "Note: the boot parameter bootgraft.x is unknown" in made.last
    assert "This machine can be grafted. Nothing has been written so far." in made.last
    for line in (
        "Disk hda: 8.0 GiB DISK",
        "  hda1: 100 MiB ext3 label /boot active",
        "DVD drive hdd: LIC",
        "Boot partition: hda1, which GRUB calls (hd0,0)",
        "  0: Appliance  (starts by itself)",
        "Kernel /vmlinuz-xen: Xen, 64 bits",
        "Payload: hdd with shim64, readme",
    ):
        assert line in made.last.split("\n")
    assert made.person.seen[-1].default == "plan"


def test_a_graft_is_shown_confirmed_done_and_its_result_kept() -> None:
    made = visit(
        ToldActions(),
        PLAN,
        ("The plan", "diffs"),
        ("Changes of text files", "back"),
        ("The plan", "graft"),
        ("Write to the disk?", "yes"),
        ("Result", "record"),
        ("The whole record", "back"),
        ("Result", "off"),
        ("Switch off", "yes"),
        ("Result", "back"),
    )
    assert made.actions.asked[2] == ("apply", Options(), PLAN_SHA256)
    assert made.actions.asked[3][:2] == ("keep_result", "manual-1")
    assert made.switch.used == ["off"]
    pages = made.person.seen
    assert "1. copy shim64" in pages[1].body
    assert "+timeout 15" in pages[2].body
    assert pages[5].body[0] == "SUCCESS"
    assert '"run_id": "manual-1"' in "\n".join(pages[6].body)
    assert made.actions.names[-1] == "inspect"  # the first page shows what is there now


def test_nothing_is_written_before_the_one_confirmation_whose_default_is_no() -> None:
    made = visit(
        ToldActions(),
        PLAN,
        ("The plan", "graft"),
        ("Write to the disk?", "back"),
        ("The plan", "back"),
    )
    confirm = made.person.seen[2]
    assert confirm.default == "back"
    assert [choice.key for choice in confirm.choices] == ["back", "yes"]
    assert "  edit menu" in confirm.body
    assert made.actions.names == ["inspect", "plan"]


def test_every_question_but_the_first_page_s_has_a_way_back_and_all_have_a_default() -> None:
    runs: list[JSON] = [{"run_id": "run-9", "changes": ["hda1:/grub/grub.conf"]}]
    made = visit(
        ToldActions(runs=runs),
        PLAN,
        ("The plan", "graft"),
        ("Write to the disk?", "back"),
        ("The plan", "back"),
        (FIRST, "choose"),
        ("Choose", "kernel"),
        ("Kernel", "back"),
        ("Choose", "back"),
        (FIRST, "rollback"),
        ("Take a graft back", "back"),
        (FIRST, "restart"),
        ("Restart", "back"),
        (FIRST, "off"),
        ("Switch off", "back"),
    )
    for page in made.person.seen:
        keys = [choice.key for choice in page.choices]
        assert page.default in keys
        assert page.title == FIRST or page.back in keys
    assert made.switch.used == []
    assert "apply" not in made.actions.names
    assert "rollback" not in made.actions.names


def test_a_failed_graft_says_why_and_what_to_do() -> None:
    errors: dict[str, Exception] = {"apply": RefusedError("the graft failed and was taken back")}
    made = visit(
        ToldActions(errors=errors), PLAN, ("The plan", "graft"), ("Write to the disk?", "yes")
    )
    assert "FAILED" in made.last
    assert "The graft failed and was taken back." in made.last
    assert "Correct that and try again. Nothing was changed." in made.last
    assert made.person.seen[-1].default == "back"
    assert "keep_result" not in made.actions.names


def test_what_a_failed_graft_has_left_is_kept_on_record_and_the_way_back_named() -> None:
    errors: dict[str, Exception] = {"apply": ChangesLeftError("not all could be taken back")}
    made = visit(
        ToldActions(errors=errors), PLAN, ("The plan", "graft"), ("Write to the disk?", "yes")
    )
    assert "Take the graft back before" in made.last
    assert made.actions.names[-1] == "keep_result"


def test_a_record_that_cannot_be_kept_does_not_hide_the_result() -> None:
    errors: dict[str, Exception] = {"keep_result": OSError(28, "No space left on device")}
    made = visit(
        ToldActions(errors=errors),
        PLAN,
        ("The plan", "graft"),
        ("Write to the disk?", "yes"),
        ("The record could not be kept beside the backups", "back"),
    )
    assert "SUCCESS" in made.last


def test_two_boot_partitions_lead_to_the_choice_and_the_choice_to_the_plan() -> None:
    problem = "cannot choose a boot partition: hda1 and hda2; name one with --boot-partition"
    actions = ToldActions(found=inspection(None, problem))
    made = visit(
        actions,
        (FIRST, "choose"),
        ("Choose", "boot_partition"),
        ("Boot partition", "hda2"),
        ("Choose", "back"),
    )
    first = made.person.seen[0]
    assert first.default == "choose"
    assert "plan" not in [choice.key for choice in first.choices]
    assert 'name one with the choice "Boot partition"' in first.body[0]
    listed = made.person.seen[2]
    assert [choice.label for choice in listed.choices] == [
        "Automatic: by what is found",
        "hda1: 100 MiB ext3 label /boot",
        "hda2: 100 MiB ext3",
        "Back, leave it as it is",
    ]
    assert actions.asked[-1] == ("inspect", Options(boot_partition="hda2"))
    assert "Chosen by you: Boot partition: hda2" in made.last


def test_two_roots_lead_to_the_choice_and_a_recipe_can_be_chosen() -> None:
    problem = "cannot choose a root file system: vg/root and vda1; name one with --root-partition"
    found = inspection(None, problem)
    linux: dict[str, JSON] = {"problem": problem, "candidates": ["vg/root", "vda1[@]"]}
    found["facts"] = {**cast("dict[str, JSON]", found["facts"]), "linux": linux}
    actions = ToldActions(found=found)
    made = visit(
        actions,
        (FIRST, "choose"),
        ("Choose", "root_partition"),
        ("Root partition", "vda1[@]"),
        ("Choose", "recipe"),
        ("Recipes, instead of the payload's", "serial-console"),
        ("Choose", "back"),
    )
    assert 'name one with the choice "Root partition"' in made.person.seen[0].body[0]
    listed = made.person.seen[2]
    assert [choice.key for choice in listed.choices] == ["", "vg/root", "vda1[@]", "back"]
    recipes = [choice.key for choice in made.person.seen[4].choices]
    assert {"hyperv-shim", "serial-console"} <= set(recipes)
    assert "authorized-key" not in recipes  # it needs the key
    chosen = Options(root_partition="vda1[@]", recipe="serial-console")
    assert actions.asked[-1] == ("inspect", chosen)


def test_a_guest_without_grub_legacy_is_shown_with_its_file_systems() -> None:
    linux: dict[str, JSON] = {
        "root": "vg/root",
        "distribution": "debian",
        "version": "13",
        "architecture": "x86_64",
        "boot_loader": "grub2",
        "volumes": {"/": "vg/root", "/boot": "vda1"},
        "absent": {"/srv": "it is of type nfs, which is elsewhere on the network"},
        "problem": None,
    }
    found = inspection(None)
    found["facts"] = {**cast("dict[str, JSON]", found["facts"]), "linux": linux}
    first = visit(ToldActions(found=found)).person.seen[0]
    assert first.default == "plan"
    shown = "\n".join(first.body)
    assert "Linux system: debian 13 x86_64, boot loader grub2" in shown
    assert "  /boot is on vda1" in shown
    assert "  /srv cannot be changed: it is of type nfs" in shown


def test_only_what_can_be_chosen_is_listed_and_automatic_takes_a_choice_back() -> None:
    found = guest()
    made = visit(
        ToldActions(found=inspection(found)),
        (FIRST, "choose"),
        ("Choose", "shim"),
        ("Shim", "shim64"),
        ("Choose", "kernel"),
        ("Kernel", "vmlinuz-xen"),
        ("Choose", "guest_disk"),
        ("Name of the first disk", "sda"),
        ("Choose", "shim"),
        ("Shim", ""),
        ("Choose", "back"),
    )
    assert [choice.key for choice in made.person.seen[2].choices] == ["", "shim64", "back"]
    assert made.person.seen[8].default == "shim64"  # what is chosen already
    assert made.console.options == Options(kernel="vmlinuz-xen", guest_disk="sda")


@pytest.mark.parametrize(
    ("text", "expected"), [("vga=keep", "vga=keep"), ("", None), (None, "before")]
)
def test_the_shim_s_arguments_are_typed_or_left(text: str | None, expected: str | None) -> None:
    made = visit(
        ToldActions(),
        (FIRST, "choose"),
        ("Choose", "shim_args"),
        ("Choose", "back"),
        options=Options(shim_args="before"),
        texts=[text],
    )
    assert made.console.options.shim_args == expected


def test_without_a_payload_it_is_waited_for_and_found_when_it_comes() -> None:
    actions = ToldActions(found=inspection(guest(payload=None), NO_PAYLOAD))

    def come(actions: ToldActions) -> None:
        actions.found = inspection(guest())

    actions.on_payload = come
    made = visit(actions, (FIRST, "payload"), ("Waiting for the DVD", INTERRUPTED))
    assert made.person.seen[0].default == "payload"
    assert "No graft is possible now: no payload DVD" in made.person.seen[0].body[0]
    assert made.person.seen[-1].default == "plan"


def test_a_graft_is_taken_back_after_a_question_that_names_the_files() -> None:
    runs: list[JSON] = [
        {"run_id": "run-2", "changes": ["hda1:/grub/grub.conf"]},
        {"run_id": "run-1", "changes": ["hda1:/shim"]},
    ]
    made = visit(
        ToldActions(runs=runs),
        (FIRST, "rollback"),
        ("Take a graft back", "yes"),
    )
    question = made.person.seen[1]
    assert question.default == "back"
    assert "  hda1:/grub/grub.conf" in question.body
    assert ("rollback", Options(), "run-2") in made.actions.asked
    assert "The graft run-2 is taken back" in made.last


def test_without_a_graft_there_is_nothing_to_take_back() -> None:
    made = visit(ToldActions(), (FIRST, "rollback"))
    assert made.labels == ["back"]
    assert "There is no graft" in made.last


def test_a_grafted_machine_is_not_grafted_again() -> None:
    made = visit(ToldActions(planned=plan(already_grafted=True)), PLAN)
    assert "graft" not in made.labels
    assert "Take the ISO out of the drive" in made.last


def test_whatever_fails_is_said_and_the_person_gets_on() -> None:
    errors: dict[str, Exception] = {"plan": KeyError("x"), "list_runs": RefusedError("no disk")}
    made = visit(
        ToldActions(errors=errors),
        PLAN,
        ("bootgraft itself failed", "back"),
        (FIRST, "rollback"),
        ("That was not possible", "back"),
        (FIRST, "shell"),
    )
    assert made.person.shells == 1


def test_a_machine_is_restarted_or_left_to_a_controller_only_when_asked_to() -> None:
    made = visit(ToldActions(), (FIRST, "restart"), ("Restart", "yes"), can_leave=True)
    assert made.switch.used == ["restart"]
    assert "leave" in made.labels
    assert visit(ToldActions(), (FIRST, "leave"), can_leave=True).person.seen[-1].title == "gone"
    assert "leave" not in visit(ToldActions()).labels


def test_no_password_reaches_a_page_through_an_error() -> None:
    errors: dict[str, Exception] = {"plan": RefusedError("root=/dev/sda password=hunter2")}
    made = visit(ToldActions(errors=errors), PLAN)
    assert "root=/dev/sda" in made.last
    assert "hunter2" not in made.last


def test_long_lines_are_wrapped_within_80_columns_and_lose_nothing() -> None:
    words = [f"word-{number}" for number in range(60)]
    text = "  hda1: " + " ".join(words) + "/x" * 100 + "\x1b[2J\ttab"
    lines = wrapped(text, 79)
    assert max(map(len, lines)) <= 79
    assert re.sub(r"\s", "", "".join(lines)) == re.sub(r"\s", "", text.replace("\x1b", "\\x1b"))
    assert all(line.startswith("    ") for line in lines)


def test_a_partition_that_linux_cannot_boot_from_is_not_offered() -> None:
    parts: list[JSON] = [partition("hda1", fs_type="vfat"), partition("hda2")]
    found = inspection(None, "none", partitions=parts)
    made = visit(ToldActions(found=found), (FIRST, "choose"), ("Choose", "boot_partition"))
    assert made.labels == ["", "hda2", "back"]
