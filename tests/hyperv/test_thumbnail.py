"""Pictures of screens: raw RGB565 to PNG."""

import struct
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from bootgraft_host.hyperv.runner import HostError
from bootgraft_host.hyperv.thumbnail import (
    MAX_PIXELS,
    TEXT_MODE,
    decode_rgb565,
    fit_size,
    take_thumbnail,
)
from hyperv.direct import DirectRunner
from hyperv.model import SimulatedHost
from hyperv.power import NoGuest, PlaceholderDisks
from hyperv.vm import Vm

# RGB565: red in bits 11 to 15, green in 5 to 10, blue in 0 to 4.
COLOURS = {
    0xF800: (255, 0, 0),
    0x07E0: (0, 255, 0),
    0x001F: (0, 0, 255),
    0xFFFF: (255, 255, 255),
    0x0000: (0, 0, 0),
    0x8410: (131, 129, 131),  # half of each
}


def test_each_colour_is_where_rgb565_has_it() -> None:
    pixels = struct.pack(f"<{len(COLOURS)}H", *COLOURS)
    image = decode_rgb565(pixels, (3, 2))
    found = [image.getpixel((column, row)) for row in range(2) for column in range(3)]
    assert found == list(COLOURS.values())


def test_lines_follow_each_other_from_the_top() -> None:
    image = decode_rgb565(struct.pack("<4H", 0xF800, 0, 0, 0x001F), (2, 2))
    assert image.getpixel((0, 0)) == (255, 0, 0)
    assert image.getpixel((1, 1)) == (0, 0, 255)


def test_bytes_behind_the_picture_are_no_part_of_it() -> None:
    assert decode_rgb565(struct.pack("<2H", 0x001F, 0xF800), (1, 1)).getpixel((0, 0)) == (0, 0, 255)


def test_a_picture_that_is_too_short_is_an_error() -> None:
    with pytest.raises(HostError, match="3 bytes; 2 x 1 pixels are 4"):
        decode_rgb565(b"abc", (2, 1))


@pytest.mark.parametrize("screen", [(640, 480), (720, 400), (800, 600), (1024, 720)])
def test_a_screen_is_asked_for_in_its_own_size(screen: tuple[int, int]) -> None:
    assert fit_size(screen) == screen


@pytest.mark.parametrize("screen", [(1024, 768), (1920, 1080), (3840, 2160), (65535, 65535)])
def test_a_large_screen_is_asked_for_smaller_in_its_proportion(screen: tuple[int, int]) -> None:
    width, height = fit_size(screen)
    assert MAX_PIXELS // 2 < width * height <= MAX_PIXELS
    assert abs(width / height - screen[0] / screen[1]) < 0.02


def test_eighty_columns_of_text_are_asked_for_pixel_by_pixel() -> None:
    assert fit_size(TEXT_MODE) == (80 * 9, 25 * 16)


def test_the_picture_is_a_png_file(tmp_path: Path) -> None:
    path = tmp_path / "screen.png"
    decode_rgb565(bytes(2 * 720 * 400), (720, 400)).save(path, format="PNG")
    with Image.open(path) as image:
        assert (image.format, image.size) == ("PNG", (720, 400))


# From a machine of the modelled host.


class Picture(NoGuest):
    """A guest whose screen is red above and blue below."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size

    def screen_size(self) -> tuple[int, int]:
        return self._size

    def take_thumbnail(self, width: int, height: int) -> bytes:
        upper = height // 2
        return struct.pack("<H", 0xF800) * width * upper + struct.pack("<H", 0x001F) * width * (
            height - upper
        )


class PicturePower(PlaceholderDisks):
    """Machines with such a guest."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size

    def start(self, vm: Vm, ended: Callable[[], None]) -> Picture:
        return Picture(self._size)


@pytest.mark.parametrize("screen", [(720, 400), (800, 600)])
def test_a_running_machines_screen_is_written_in_its_own_size(
    tmp_path: Path, screen: tuple[int, int]
) -> None:
    host = SimulatedHost(tmp_path / "host")
    vm = host.add_vm("appliance", power=PicturePower(screen))
    host.add_vm("another", power=PicturePower((640, 480)))
    vm.take_checkpoint("before")
    vm.start()
    path = tmp_path / "screen.png"
    take_thumbnail(DirectRunner(host), str(vm.id), path)
    with Image.open(path) as image:
        assert image.size == screen
        assert image.getpixel((0, 0)) == (255, 0, 0)
        assert image.getpixel((screen[0] - 1, screen[1] - 1)) == (0, 0, 255)


def test_a_large_screen_is_written_smaller(tmp_path: Path) -> None:
    host = SimulatedHost(tmp_path / "host")
    vm = host.add_vm("appliance", power=PicturePower((1920, 1080)))
    vm.start()
    take_thumbnail(DirectRunner(host), str(vm.id), tmp_path / "screen.png")
    with Image.open(tmp_path / "screen.png") as image:
        assert image.size == fit_size((1920, 1080))


def test_a_machine_that_is_off_has_no_screen(tmp_path: Path) -> None:
    host = SimulatedHost(tmp_path / "host")
    vm = host.add_vm("appliance")
    with pytest.raises(HostError, match="the machine is off, or has nothing on its screen"):
        take_thumbnail(DirectRunner(host), str(vm.id), tmp_path / "screen.png")
    assert not (tmp_path / "screen.png").exists()


def test_a_machine_that_is_gone_has_no_screen_either(tmp_path: Path) -> None:
    runner = DirectRunner(SimulatedHost(tmp_path / "host"))
    with pytest.raises(HostError, match="has 0 machines with the Id"):
        take_thumbnail(runner, str(uuid.uuid4()), tmp_path / "screen.png")
