"""Whether a guest is one that a recipe is meant for; if not, which fact differs. Pure."""

import itertools
from collections.abc import Callable, Iterator, Mapping

from bootgraft_agent.recipe_file.facts import LinuxFacts
from bootgraft_agent.recipe_file.model import Selector, VersionTest
from bootgraft_agent.recipe_file.patterns import Pattern, Work, escape
from bootgraft_agent.recipe_file.text_lines import to_bytes
from bootgraft_agent.world import View

_COMPARISONS: Mapping[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    ">=": lambda found, wanted: found >= wanted,
    "<=": lambda found, wanted: found <= wanted,
    ">": lambda found, wanted: found > wanted,
    "<": lambda found, wanted: found < wanted,
}

_PATH_WORK = 1000  # units of work for each path, see patterns.Work


def mismatches(
    selector: Selector, facts: LinuxFacts, view: View, values: Mapping[str, str], work: Work
) -> Iterator[str]:
    """Say in words each fact that is another than the selector wants."""
    named = (facts.distribution, *facts.like)
    if selector.distribution and not set(selector.distribution) & set(named):
        yield _differs("distribution", facts.distribution, selector.distribution)
    tests = selector.distribution_version
    if tests and not any(_is_version(facts.version, each) for each in tests):
        wanted = tuple(" and ".join(map(str, each)) for each in tests)
        yield _differs("version", facts.version, wanted)
    if selector.architecture and facts.architecture not in selector.architecture:
        yield _differs("architecture", facts.architecture, selector.architecture)
    if selector.boot_loader and facts.boot_loader not in selector.boot_loader:
        yield _differs("boot loader", facts.boot_loader, selector.boot_loader)
    if selector.root is not None:
        pattern = Pattern(f"^(?:{selector.root.fill(values, escape)})$")
        work.spend(pattern.cost)
        if not pattern.matches(to_bytes(facts.root_device or ""), work):
            yield _differs("root file system in fstab", facts.root_device, (pattern.text,))
    work.spend(_PATH_WORK * (len(selector.present) + len(selector.absent)))
    for template in selector.present:
        path = template.fill(values)
        if not view.exists(path):
            yield f"there is no {path}"
    for template in selector.absent:
        path = template.fill(values)
        if view.kind(path) is not None:
            yield f"there is a {path}"


def _differs(fact: str, found: str | None, wanted: tuple[str, ...]) -> str:
    return f"its {fact} is {found or 'not known'}, not {' or '.join(wanted)}"


def _is_version(found: str | None, tests: tuple[VersionTest, ...]) -> bool:
    if found is None:
        return False
    parts = (part for part in found.split("."))
    digits = itertools.takewhile(lambda part: part.isascii() and part.isdigit(), parts)
    version = tuple(int(part[:9]) for part in digits)
    return bool(version) and all(_passes(version, test) for test in tests)


def _passes(found: tuple[int, ...], test: VersionTest) -> bool:
    """Compare as many parts as the test has: 12.5 is 12, and not above it."""
    compare = _COMPARISONS.get(test.comparison)
    shown = (*found, *(0,) * len(test.version))[: len(test.version)]
    return shown == test.version if compare is None else compare(shown, test.version)
