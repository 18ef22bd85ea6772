"""What is said of a Linux guest, whatever its boot loader is, in an inspection."""

from bootgraft_agent.errors import AmbiguousError, RefusedError
from bootgraft_agent.live_volumes import LiveVolumes
from bootgraft_agent.recipe_file.facts import read_facts
from bootgraft_agent.secrets_mask import mask_text
from bootgraft_agent.wire import JSON
from bootgraft_agent.world import open_world

LinuxJson = dict[str, JSON]


def linux_json(volumes: LiveVolumes) -> LinuxJson:
    """Give what a guest's own files say of it, and where its file systems are.

    Where that cannot be read, `problem` says why.
    """
    try:
        with open_world(volumes, "") as world:
            facts = read_facts(world).to_json()
            assert isinstance(facts, dict)  # noqa: S101 - they have names
    except (RefusedError, OSError) as error:
        return problem_json(error)
    return {
        **facts,
        "root": volumes.name("root"),
        "volumes": {f"/{mount}": volumes.name(where) for mount, where in volumes.mounts},
        "absent": {f"/{mount}": mask_text(why) for mount, why in volumes.absent},
        "problem": None,
    }


def problem_json(problem: Exception | str) -> LinuxJson:
    """Say why nothing is known of a Linux guest, and what may be chosen from."""
    candidates = problem.candidates if isinstance(problem, AmbiguousError) else ()
    return {"problem": mask_text(str(problem)), "candidates": list(candidates)}
