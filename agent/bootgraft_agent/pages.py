"""The pages of the manual console, as data, and their words. Pure.

A page says something and asks one question, which always has a default and, but for the first
page, a way back.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from bootgraft_agent.mounts import DISK_FILE_SYSTEMS
from bootgraft_agent.plan import Options
from bootgraft_agent.result import Result
from bootgraft_agent.wire import JSON

AUTOMATIC = ""  # the choice that leaves the choice to the facts
BACK = "back"

# What the options of the command line are called at the console.
LABELS = {
    "recipe": "Recipes, instead of the payload's",
    "root_partition": "Root partition",
    "boot_partition": "Boot partition",
    "kernel": "Kernel",
    "shim": "Shim",
    "shim_args": "Arguments for the shim",
    "guest_disk": "Name of the first disk",
}
_OPTION = re.compile(r"--(recipe|root-partition|boot-partition|kernel|shim-args|shim|guest-disk)\b")
_GUEST_DISKS = {
    "hda": "hda: kernels with the old IDE drivers (RHEL 5, SLES 10)",
    "sda": "sda: newer kernels (SLES 11, Ubuntu 8.04)",
}
_GIB, _MIB = 1 << 30, 1 << 20


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer; `key` is the program's name for it."""

    key: str
    label: str


@dataclass(frozen=True, slots=True)
class Page:
    """What is shown, and what can be answered; `default` is what Enter alone means."""

    title: str
    body: tuple[str, ...]
    choices: tuple[Choice, ...]
    default: str
    back: str | None = None  # what Esc means


def page(
    title: str,
    body: Sequence[str],
    choices: Mapping[str, str],
    *,
    default: str | None = None,
    back: str | None = None,
) -> Page:
    """Make a page; the first choice is the default unless told otherwise."""
    made = tuple(Choice(key, label) for key, label in choices.items())
    return Page(title, tuple(body), made, made[0].key if default is None else default, back)


def console_words(text: str) -> str:
    """Name the console's choices where a message names options of the command line."""
    return _OPTION.sub(lambda found: f'the choice "{LABELS[found[1].replace("-", "_")]}"', text)


# What was found


def overview(
    found: Mapping[str, JSON], options: Options, problems: Sequence[str], *, can_leave: bool
) -> Page:
    """Say what was found; every way through the console starts here."""
    problem = found["problem"]
    guest = _mapping(found["facts"]).get("guest")
    linux = _mapping(_mapping(found["facts"]).get("linux"))
    body = [*(f"Note: {each}" for each in problems), *_state(found), ""]
    body += [*_disk_lines(found), *_guest_lines(guest), *_linux_lines(linux)]
    body += _chosen_lines(options)
    choices = {
        "plan": "Show the plan, then graft this machine",
        "payload": "Wait for the DVD with the shim or recipes",
        "choose": "Choose the boot partition, root partition, recipe, kernel, shim",
        "rollback": "Take a graft back",
        "again": "Look at the machine again",
        "shell": "Root shell",
        "restart": "Restart the machine",
        "off": "Switch the machine off",
    }
    has_payload = isinstance(guest, Mapping) and guest.get("payload") is not None
    if has_payload or problem is None or (guest is None and linux.get("root") is None):
        del choices["payload"]
    if problem is not None:
        del choices["plan"]
    if can_leave:
        choices["leave"] = "Leave it to a controller"
    default = "again"
    if "plan" in choices:
        default = "plan"
    elif "payload" in choices:
        default = "payload"
    elif "--" in str(problem) or options != Options():
        default = "choose"
    return page("This machine", body, choices, default=default)


def _state(found: Mapping[str, JSON]) -> Iterator[str]:
    if found["problem"] is None:
        yield "This machine can be grafted. Nothing has been written so far."
    else:
        yield "No graft is possible now: " + console_words(str(found["problem"]))
    for warning in _texts(found.get("warnings")):
        yield f"Warning: {console_words(warning)}"


def _disk_lines(found: Mapping[str, JSON]) -> Iterator[str]:
    facts = _mapping(found["facts"])
    for disk in mappings(facts.get("disks")):
        yield f"Disk {disk['name']}: {_size(disk['size'])} {disk['model'] or ''}".rstrip()
        if disk["problem"]:
            yield f"  {disk['problem']}"
        for part in mappings(disk["partitions"]):
            words = [f"{part['name']}:", _size(part["size"]), str(part["fs_type"] or "unknown")]
            words += [f"label {part['label']}"] if part["label"] else []
            words += ["active"] if part["active"] else []
            yield "  " + " ".join(words)
    for drive in mappings(facts.get("dvd_drives")):
        content = drive["label"] or "a DVD without a label" if drive["has_medium"] else "empty"
        own = " (this live ISO)" if drive["is_live_medium"] else ""
        yield f"DVD drive {drive['name']}: {content}{own}"


def _guest_lines(guest: JSON) -> Iterator[str]:
    if not isinstance(guest, Mapping):
        return
    boot = _mapping(guest["boot"])
    entries = _texts(boot["entries"])
    yield f"Boot partition: {boot['volume']}, which GRUB calls {boot['bios']}"
    yield f"GRUB's menu: {boot['menu']}, entries {len(entries)}:"
    for number, title in enumerate(entries):
        mark = "  (starts by itself)" if number == boot["default"] else ""
        yield f"  {number}: {title}{mark}"
    for kernel in mappings(guest["kernels"]):
        kind = f"Xen, {kernel['bits']} bits" if kernel["xen"] else "not for Xen"
        yield f"Kernel {kernel['path']}: {kernel['problem'] or kind}"
        if kernel["initrd"]:
            yield f"  with {kernel['initrd']}"
    yield f"Root file system: {guest['root'] or console_words(str(guest['root_problem']))}"
    if guest["payload"] is not None:
        payload = _mapping(guest["payload"])
        names = ", ".join(str(file["name"]) for file in mappings(payload["files"]))
        yield f"Payload: {payload['name']} with {names}"


def _linux_lines(linux: Mapping[str, JSON]) -> Iterator[str]:
    if linux.get("root") is None:
        return
    words = [linux.get("distribution"), linux.get("version"), linux.get("architecture")]
    known = " ".join(str(word) for word in words if word) or "unknown"
    yield f"Linux system: {known}, boot loader {linux.get('boot_loader')}"
    for mount, name in _mapping(linux.get("volumes")).items():
        yield f"  {mount} is on {name}"
    for mount, reason in _mapping(linux.get("absent")).items():
        yield f"  {mount} cannot be changed: {reason}"


def _chosen_lines(options: Options) -> Iterator[str]:
    for name, label in LABELS.items():
        value = getattr(options, name)
        if value is not None:
            yield f"Chosen by you: {label}: {value}"


def _size(size: JSON) -> str:
    number = size if isinstance(size, int) else 0
    return f"{number / _GIB:.1f} GiB" if number >= _GIB else f"{number / _MIB:.0f} MiB"


# The plan


def plan_page(plan: Mapping[str, JSON]) -> Page:
    """Say the plan in words."""
    if plan["already_grafted"]:
        body = [
            "This machine is grafted already. Nothing is to be done.",
            "Take the ISO out of the drive, then start the machine from its own disk.",
        ]
        return page("The plan", body, {BACK: "Back", "off": "Switch the machine off"}, back=BACK)
    steps = mappings(plan["steps"])
    body = [f"{number}. {step['text']}" for number, step in enumerate(steps, start=1)]
    body += [f"Warning: {console_words(each)}" for each in _texts(plan["warnings"])]
    body += ["", "Nothing has been written so far."]
    choices = {
        "graft": "Graft: says what is written, and asks once more",
        "diffs": f"Show the changes of {len(mappings(plan['diffs']))} text files, line by line",
        BACK: "Back",
    }
    if not plan["diffs"]:
        del choices["diffs"]
    return page("The plan", body, choices, back=BACK)


def diff_page(plan: Mapping[str, JSON]) -> Page:
    """Show the diffs of all text files."""
    body: list[str] = ["Lines with - go, lines with + come. Passwords are not shown.", ""]
    for each in mappings(plan["diffs"]):
        body += [f"=== {each['path']}", *str(each["diff"]).split("\n"), ""]
    return page("Changes of text files", body, {BACK: "Back to the plan"}, back=BACK)


def confirm_page(plan: Mapping[str, JSON]) -> Page:
    """Ask the one question after which something is written."""
    steps = [str(each["text"]) for each in mappings(plan["steps"])]
    body = [
        f"Write to this machine's disk? {len(steps)} steps:",
        *(f"  {step}" for step in steps),
        "",
        "Every file that changes is kept; Take a graft back brings all of them back.",
    ]
    choices = {BACK: "No, back to the plan", "yes": "Yes, write it now"}
    return page("Write to the disk?", body, choices, back=BACK)


def result_page(result: Result) -> Page:
    """Say what a graft or a rollback came to."""
    body = [
        result.headline,
        "",
        console_words(result.reason),
        "",
        f"What to do now: {result.next_step}",
    ]
    choices = {"off": "Switch the machine off", "record": "Show the whole record", BACK: "Back"}
    return page("Result", body, choices, default="off" if result.is_good else BACK, back=BACK)


# Taking back


def rollback_page(runs: Sequence[Mapping[str, JSON]]) -> Page:
    """Ask whether the latest graft is to be taken back."""
    if not runs:
        body = ["There is no graft of bootgraft's on this machine that could be taken back."]
        return page("Take a graft back", body, {BACK: "Back"}, back=BACK)
    latest = runs[0]
    body = [
        f"The latest graft, {latest['run_id']}, is taken back. These files become what they were"
        " before it, byte for byte; those that it added are removed:",
        *(f"  {each}" for each in _texts(latest["changes"])),
        "",
        "A file that somebody has changed since is not overwritten: then nothing is done.",
    ]
    choices = {BACK: "No, back", "yes": "Yes, take it back now"}
    return page("Take a graft back", body, choices, back=BACK)


# Choosing


def choose_page(options: Options) -> Page:
    """List what can be chosen."""
    body = ["Without your choice bootgraft chooses by what it finds, and asks where it cannot."]
    choices = {BACK: "Back: look at the machine with these choices"}
    for name, label in LABELS.items():
        value = getattr(options, name)
        choices[name] = f"{label}: {'automatic' if value is None else value or 'none'}"
    return page("Choose", body, choices, back=BACK)


def candidates(name: str, found: Mapping[str, JSON]) -> dict[str, str]:
    """Give what an option can be set to, by what was found; each with words for it."""
    facts = _mapping(found["facts"])
    guest = _mapping(facts.get("guest"))
    match name:
        case "recipe":
            return _ready_recipes()
        case "root_partition":
            linux = _mapping(facts.get("linux"))
            root = [str(linux["root"])] if linux.get("root") else []
            known = _texts(linux.get("candidates")) or root
            return {each: each for each in known} or _partitions(facts)
        case "boot_partition":
            return _partitions(facts)
        case "guest_disk":
            return dict(_GUEST_DISKS)
        case "kernel":
            kernels = [each for each in mappings(guest.get("kernels")) if each["xen"]]
            return {str(each["path"]).strip("/"): str(each["path"]) for each in kernels}
    files = mappings(_mapping(guest.get("payload")).get("files"))
    return {
        str(each["name"]): f"{each['name']} ({each['size']} bytes)"
        for each in files
        if each["format"] == "multiboot" and not each["problem"]
    }


def _partitions(facts: Mapping[str, JSON]) -> dict[str, str]:
    return {
        str(part["name"]): f"{part['name']}: {_size(part['size'])} {part['fs_type']}"
        + (f" label {part['label']}" if part["label"] else "")
        for disk in mappings(facts.get("disks"))
        for part in mappings(disk["partitions"])
        if part["fs_type"] in DISK_FILE_SYSTEMS
    }


def _ready_recipes() -> dict[str, str]:
    """Give the recipes that need nothing but to be chosen."""
    from bootgraft_agent.recipe_file import library  # noqa: PLC0415 - the first page needs it not

    ready = {
        name: f"{name}: {recipe.description}"
        for name, recipe in library().items()
        if all(each.default is not None for each in recipe.parameters)
    }
    return {"hyperv-shim": "hyperv-shim: boot a Xen guest on Hyper-V", **ready}


def candidates_page(name: str, options: Options, found: Mapping[str, JSON]) -> Page:
    """Ask what an option is to be."""
    listed = candidates(name, found)
    body = ["Which one is it?"] if listed else ["Nothing that could be chosen was found."]
    value = getattr(options, name)
    choices = {AUTOMATIC: "Automatic: by what is found", **listed, BACK: "Back, leave it as it is"}
    default = value if value in choices else AUTOMATIC
    return page(LABELS[name], body, choices, default=default, back=BACK)


# Questions and messages


def message_page(title: str, text: str) -> Page:
    """Say something that has one answer."""
    return page(title, console_words(text).split("\n"), {BACK: "Back"}, back=BACK)


def payload_page() -> Page:
    """Say what is waited for."""
    body = [
        "Put the ISO with the directory shim (Microsoft's Linux Integration Components), or with"
        " recipes, into a DVD drive of this machine now. It may be the drive with this live ISO,"
        " which is in memory as a whole.",
        "",
        "The console goes on by itself when the DVD is there.",
    ]
    return page("Waiting for the DVD", body, {BACK: "Back, without it"}, back=BACK)


def restart_page() -> Page:
    """Ask before a restart."""
    body = [
        "Take the ISO out of the drive first, if the machine is to start from its own disk: with"
        " the ISO in the drive it may come back here.",
    ]
    return page("Restart", body, {BACK: "No, back", "yes": "Yes, restart"}, back=BACK)


def off_page() -> Page:
    """Ask before the machine is switched off."""
    body = ["Nothing is being written. The ISO stays in the drive until you take it out."]
    return page("Switch off", body, {"yes": "Yes, switch off", BACK: "No, back"}, back=BACK)


# JSON of our own making, with its types proven


def _mapping(value: JSON) -> Mapping[str, JSON]:
    return value if isinstance(value, Mapping) else {}


def mappings(value: JSON) -> list[Mapping[str, JSON]]:
    """Give the objects of a list; none where it is no list."""
    return [each for each in value if isinstance(each, Mapping)] if _is_list(value) else []


def _texts(value: JSON) -> list[str]:
    return [str(each) for each in value] if _is_list(value) else []


def _is_list(value: JSON) -> TypeGuard[Sequence[JSON]]:
    return isinstance(value, Sequence) and not isinstance(value, str)
