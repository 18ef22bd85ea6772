"""How much a recipe may be and bring along."""

MAX_SIZE = 256 * 1024  # bytes of a recipe file, and of a list of recipes
MAX_PAYLOAD_FILES = 10_000  # that the recipes of a payload copy
MAX_PAYLOAD = 512 * 1024 * 1024  # bytes of all of them
