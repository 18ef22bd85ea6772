"""The end of the kernel's log."""

from bootgraft_agent.kernel_log import LIMIT, parse_kernel_log, read_kernel_log


def test_levels_are_left_out_and_bytes_that_are_no_text_escaped() -> None:
    log = b"<6>[    0.000000] Linux version 6.12\n<3>[    1.250000] sda: \xff\n"
    assert parse_kernel_log(log) == [
        "[    0.000000] Linux version 6.12",
        "[    1.250000] sda: \\xff",
    ]


def test_a_long_log_is_cut_to_its_last_whole_lines() -> None:
    log = b"".join(b"<6>[%12d] %s\n" % (number, b"x" * 100) for number in range(1000))
    kept = parse_kernel_log(log)
    assert kept[-1] == f"[{999:12}] {'x' * 100}"
    assert sum(len(line) + 1 for line in kept) <= LIMIT
    assert len(kept) == LIMIT // len(kept[-1] + "\n")


def test_the_kernel_is_asked() -> None:
    assert all(isinstance(line, str) for line in read_kernel_log())
