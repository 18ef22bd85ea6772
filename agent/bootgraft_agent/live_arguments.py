"""The options of the commands in the live system's shell; imports nothing that takes time."""

import argparse

COMMANDS = {
    "inspect": "look at this machine's disks; changes nothing",
    "plan": "say what a graft would do; changes nothing",
    "graft": "graft this machine",
    "rollback": "take a graft back",
    "runs": "list the grafts that can be taken back",
}


def add_arguments(name: str, parser: argparse.ArgumentParser) -> None:
    """Add a command's options."""
    parser.add_argument(
        "--boot-partition", metavar="hda1", help="where several file systems hold GRUB's files"
    )
    parser.add_argument(
        "--root-partition", metavar="vda2", help="where several file systems hold a Linux system"
    )
    parser.add_argument(
        "--recipe", metavar="NAMES", help="recipes, separated by commas, instead of the payload's"
    )
    if name in {"inspect", "plan", "graft"}:
        parser.add_argument("--kernel", metavar="NAME", help="the Xen kernel to graft")
        parser.add_argument("--shim", metavar="NAME", help="the shim to load, by its file name")
        parser.add_argument("--shim-args", metavar="TEXT", help="arguments for the shim")
        parser.add_argument(
            "--guest-disk", choices=["hda", "sda"], help="how the guest's kernel names its disk"
        )
    if name == "graft":
        parser.add_argument(
            "--plan-sha256", metavar="HASH", help="refuse any other plan than the one shown before"
        )
    if name == "rollback":
        parser.add_argument("--run", metavar="ID", help="the run to take back; default: the latest")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON document")
