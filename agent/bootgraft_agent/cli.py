"""The command `bootgraft-agent`: the live system's modes and commands, or a mounted tree."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from bootgraft_agent import __version__, fstab, live_arguments
from bootgraft_agent.errors import BootgraftError
from bootgraft_agent.secrets_mask import mask_text
from bootgraft_agent.text import printable

_STATUSES = """\
exit status: 0 grafted, rolled back, or nothing to do; 1 refused or failed, and nothing changed;
2 invalid request; 3 failed with changes left, which the message names
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; give its exit status."""
    arguments = _parser().parse_args(argv)
    level = logging.DEBUG if arguments.verbose else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    try:
        if arguments.command == "live":
            return _live(arguments)
        if arguments.command == "tree":
            return _tree(arguments)
        from bootgraft_agent import live_command  # noqa: PLC0415 - HELLO waits for nothing of it

        return live_command.run(arguments)
    except BootgraftError as error:
        _fail(str(error), error.exit_status, as_json=getattr(arguments, "json", False))
        return error.exit_status
    except OSError as error:
        _fail(str(error), 1, as_json=getattr(arguments, "json", False))
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bootgraft-agent",
        description="Grafts a missing boot path into a guest's disk.",
        epilog=_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"bootgraft-agent {__version__}")
    parser.add_argument("--verbose", action="store_true", help="log more, on standard error")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_tree(
        commands.add_parser("tree", help="graft file systems that are mounted", epilog=_STATUSES)
    )
    for name, words in live_arguments.COMMANDS.items():
        live_arguments.add_arguments(
            name, commands.add_parser(name, help=f"{words} (live system)", epilog=_STATUSES)
        )
    _add_live(commands.add_parser("live", help="do what the kernel's command line asks for"))
    return parser


def _add_tree(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root", type=Path, required=True, metavar="DIR", help="the guest's root directory"
    )
    parser.add_argument(
        "--boot",
        type=Path,
        metavar="DIR",
        help="where its boot partition is mounted, if /boot is a file system of its own",
    )
    parser.add_argument(
        "--grub-root",
        metavar="(hdN,P)",
        help="the device that holds the boot directory, as GRUB names it; default: as in the"
        " menu's default entry",
    )
    parser.add_argument(
        "--mount",
        type=_parse_mount,
        action="append",
        default=[],
        metavar="/POINT=DIR",
        help="where another of its file systems is mounted, for recipes that change files there;"
        " can be repeated",
    )
    parser.add_argument(
        "--payload", type=Path, metavar="DIR", help="where the payload ISO is mounted"
    )
    parser.add_argument(
        "--recipe",
        action="append",
        default=[],
        metavar="NAME_OR_FILE",
        help="a recipe instead of what the payload says: a ready one, hyperv-shim, or a file with"
        " what it copies beside it; can be repeated, then they become one plan",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="[RECIPE.]NAME=VALUE",
        help="a parameter of a recipe; can be repeated",
    )
    parser.add_argument(
        "--set-file",
        action="append",
        default=[],
        metavar="[RECIPE.]NAME=FILE",
        help="a parameter of a recipe, to what a file holds, so that a secret is not seen in the"
        " list of processes; can be repeated",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="show the plan and change nothing")
    what.add_argument("--rollback", action="store_true", help="take the latest graft back")
    parser.add_argument("--run", metavar="ID", help="with --rollback: the run to take back")
    parser.add_argument("--kernel", metavar="NAME", help="the Xen kernel to graft")
    parser.add_argument("--shim", metavar="NAME", help="the shim to load, by its file name")
    parser.add_argument("--shim-args", metavar="TEXT", help="arguments for the shim")
    parser.add_argument(
        "--guest-disk",
        choices=["hda", "sda"],
        help="how the guest's kernel names its first IDE disk; default: as its files say",
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON document")


def _parse_mount(text: str) -> tuple[str, Path]:
    point, equals, directory = text.partition("=")
    place = fstab.place_of(point)
    if not equals or not directory or not place:
        raise argparse.ArgumentTypeError("it takes /POINT=DIR, as in /var=/mnt/var")
    if place == "boot":
        raise argparse.ArgumentTypeError("/boot is named with --boot")
    return place, Path(directory)


def _add_live(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--serial", default="/dev/ttyS0", metavar="DEVICE", help="the serial port")
    parser.add_argument(
        "--screen", type=Path, default="/dev/tty1", metavar="DEVICE", help="the machine's screen"
    )


def _live(arguments: argparse.Namespace) -> int:
    from bootgraft_agent import live_modes  # noqa: PLC0415 - needs what only the live system has

    return live_modes.run(arguments.serial, arguments.screen)


def _tree(arguments: argparse.Namespace) -> int:
    from bootgraft_agent import tree_command  # noqa: PLC0415 - serving a controller does without

    return tree_command.run(arguments)


def _fail(message: str, status: int, *, as_json: bool) -> None:
    if as_json:
        document = {"ok": False, "exit_status": status, "error": mask_text(message)}
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
    sys.stderr.write(f"bootgraft-agent: {printable(mask_text(message))}\n")
