"""Fuzz the protocol, guided by coverage: `python -m torture.fuzz_wire CORPUS -max_total_time=600`.

Needs atheris, which nothing else here does: `.venv/bin/pip install atheris`. The arguments are
libFuzzer's; `-merge=1 KEPT CORPUS` keeps the files that matter. What is kept,
tests/data/wire-corpus, is tried again by tests/agent.
"""

import shlex
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-not-found,unused-ignore]

with atheris.instrument_imports(include=["bootgraft_agent.wire", "json"]):
    from torture.wire_input import try_input


def main() -> None:
    """Run libFuzzer, which ends the process."""
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder, "fuzz")  # libFuzzer starts itself again, by argv[0]
        command = shlex.join([sys.executable, "-m", "torture.fuzz_wire"])
        again.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        again.chmod(0o700)
        atheris.Setup([str(again), *sys.argv[1:]], try_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
