"""Text for terminals."""


def printable(text: str) -> str:
    """Escape what a terminal would act on; line ends and tabs stay."""
    return "".join(
        each if each.isprintable() or each in "\n\t" else _escaped(each) for each in text
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
