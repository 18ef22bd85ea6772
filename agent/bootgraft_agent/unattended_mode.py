"""Unattended mode's outside: the screen, the serial port, the clock, and the machine's switch."""

import threading
import time

from bootgraft_agent import power, serve
from bootgraft_agent.banner import result_screen
from bootgraft_agent.errors import ChangesLeftError, RefusedError
from bootgraft_agent.kernel_log import read_kernel_log
from bootgraft_agent.parameters import Parameters
from bootgraft_agent.result import Result, failed, serial_lines
from bootgraft_agent.screen import Screen
from bootgraft_agent.serial_words import RESULT_TIMEOUT, SerialWords
from bootgraft_agent.startup import LaterActions
from bootgraft_agent.unattended import Unattended

LAST_BYTES = 1.0  # seconds for the serial port to send what the kernel has taken
_STAYS = "This machine stays on; switch it off when you have read this."


def run(parameters: Parameters, actions: LaterActions, device: str, screen: Screen) -> int:
    """Graft without a question, show the result, and switch the machine off."""
    words = SerialWords(device)
    said = ["starting"]

    def tell(text: str) -> None:
        said.append(text)
        screen.show(text)
        words.say(text)

    tell("unattended: nobody is asked anything; the machine switches itself off afterwards")
    run_id = f"unattended-{serve.new_id()[:8]}"
    result = _limited(Unattended(actions, parameters, run_id, tell), parameters.time_limit, said)
    if not result.is_good:
        record = {**result.record, "log": list(read_kernel_log())}
        result = Result(result.outcome, result.reason, result.next_step, result.run_id, record)
    sending = threading.Thread(target=words.write_result, args=(serial_lines(result),), daemon=True)
    sending.start()
    _show(result, parameters.power_off_after, screen)
    sending.join(RESULT_TIMEOUT)
    time.sleep(LAST_BYTES)
    power.power_off()
    return 0


def _limited(run: Unattended, limit: float, said: list[str]) -> Result:
    """Give the result when it is there; where that takes too long, say what it was at."""
    results: list[Result] = []
    working = threading.Thread(target=lambda: results.append(run.run()), daemon=True)
    working.start()
    working.join(limit)
    if results:
        return results[0]
    kind = ChangesLeftError if run.may_have_changed else RefusedError
    return failed(kind(f"the graft did not end within {limit:.0f} s; it was at: {said[-1]}"), {})


def _show(result: Result, power_off_after: float | None, screen: Screen) -> None:
    """Show the result as long as it is to be shown; the time left is counted down."""
    screen.is_lent = True
    end = None if power_off_after is None else time.monotonic() + power_off_after
    while end is None or time.monotonic() < end:
        left = _STAYS
        if end is not None:
            left = f"This machine switches itself off in {end - time.monotonic():.0f} s."
        screen.write(result_screen(result, left))
        time.sleep(1.0 if end is None else min(1.0, max(0.0, end - time.monotonic())))
