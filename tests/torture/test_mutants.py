"""Every broken build can still be made, and its family is there to catch it."""

from pathlib import Path

import pytest

from torture.__main__ import FAMILIES
from torture.mutants import MUTANTS, Mutant, make_mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_texts_to_break_are_where_they_were(mutant: Mutant, tmp_path: Path) -> None:
    make_mutant(mutant, tmp_path)
    for edit in mutant.edits:
        compile((tmp_path / edit.file).read_text("utf-8"), edit.file, "exec")


def test_every_mutant_has_a_family() -> None:
    assert {mutant.family for mutant in MUTANTS} <= {family.name for family in FAMILIES}
