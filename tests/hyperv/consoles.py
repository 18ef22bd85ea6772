"""The command line's consoles, whose text is read afterwards."""

import io

from rich.console import Console


class Consoles:
    """What commands print on."""

    def __init__(self) -> None:
        self._out, self._err = io.StringIO(), io.StringIO()
        self.out = Console(file=self._out, markup=False, highlight=False, soft_wrap=True)
        self.err = Console(file=self._err, markup=False, highlight=False, soft_wrap=True)

    @property
    def out_text(self) -> str:
        return self._out.getvalue()

    @property
    def err_text(self) -> str:
        return self._err.getvalue()
