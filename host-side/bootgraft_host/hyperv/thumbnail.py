"""A picture of a machine's screen: the thumbnail that Hyper-V makes of it, as a PNG file.

Hyper-V scales the screen to the size asked for, and gives raw RGB565: two bytes for each pixel,
the low one first, red in the upper five bits. A screen of text is readable at its own size only,
which the machine's video head tells.
Sources: Microsoft's reference of Msvm_VirtualSystemManagementService,
GetVirtualSystemThumbnailImage, and of Msvm_VideoHead.
"""

import uuid
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from bootgraft_agent.wire import JSON
from bootgraft_host.hyperv.host_files import Answer, ask
from bootgraft_host.hyperv.runner import HostError, Runner

TEXT_MODE = (720, 400)  # pixels of 80 x 25 characters of 9 x 16
MIN_SIZE = 16
# Two bytes each, in Base64 they stay below 2 MiB of JSON text, a limit of older hosts.
MAX_PIXELS = 750_000

RETURN_VALUES = {
    4096: "a job was started, which a picture does not need",
    32768: "it failed",
    32769: "access denied",
    32770: "not supported",
    32772: "timeout",
    32773: "invalid parameter",
    32774: "the system is in use",
    32775: "invalid state: the machine is off, or has nothing on its screen yet",
    32777: "the system is not available",
    32778: "out of memory",
}

Size = tuple[int, int]  # width, height; pixels


@dataclass(frozen=True, slots=True)
class _Picture:
    size: Size
    pixels: bytes
    screen: Size | None  # the size of the screen itself


def take_thumbnail(runner: Runner, vm_id: str, path: Path) -> None:
    """Write a picture of a running machine's screen as a PNG file. Raises HostError, OSError."""
    picture = _take(runner, vm_id, TEXT_MODE)
    if picture.screen is not None and picture.screen != picture.size:
        wanted = fit_size(picture.screen)
        if wanted != picture.size:
            picture = _take(runner, vm_id, wanted)
    decode_rgb565(picture.pixels, picture.size).save(path, format="PNG")


def fit_size(screen: Size) -> Size:
    """Give the size to ask for: the screen's own, or smaller in the same proportion."""
    width, height = screen
    while width * height > MAX_PIXELS:
        width, height = width * 9 // 10, height * 9 // 10
    return max(width, MIN_SIZE), max(height, MIN_SIZE)


def decode_rgb565(pixels: bytes, size: Size) -> Image.Image:
    """Make an image of raw RGB565. Raises HostError where the bytes are not the size's."""
    expected = size[0] * size[1] * 2
    if len(pixels) < expected:
        raise HostError(
            f"the picture of the screen has {len(pixels)} bytes; {size[0]} x {size[1]} pixels are"
            f" {expected}"
        )
    return Image.frombytes("RGB", size, pixels[:expected], "raw", "BGR;16")


def _take(runner: Runner, vm_id: str, size: Size) -> _Picture:
    identifier = str(uuid.UUID(vm_id)).upper()
    asked: dict[str, JSON] = {
        "SettingsFilter": f"VirtualSystemIdentifier = '{identifier}'"
        " AND VirtualSystemType = 'Microsoft:Hyper-V:System:Realized'",
        "HeadFilter": f"SystemName = '{identifier}'",
        "Width": size[0],
        "Height": size[1],
    }
    answer = ask(runner, "screenshot", asked)
    pictures = list(answer.objects("Pictures"))
    if len(pictures) != 1:
        raise HostError(
            f"{runner.host} has {len(pictures)} machines with the Id {vm_id} whose screen can be"
            " seen; one was expected"
        )
    (picture,) = pictures
    value, data = picture.number("ReturnValue"), picture.data("Data")
    if value or not data:
        reason = RETURN_VALUES.get(value, "no picture came")
        raise HostError(f"{runner.host} gives no picture of the screen: {reason} ({value})")
    return _Picture(size, data, _screen_size(answer))


def _screen_size(answer: Answer) -> Size | None:
    """Give the size of the first screen that has one; in a Hyper-V machine there is one."""
    for head in answer.objects("Heads"):
        width, height = head.optional_number("Width"), head.optional_number("Height")
        if width and height:
            return width, height
    return None
