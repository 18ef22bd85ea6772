"""What can go wrong in a graft, told apart only where a caller acts differently."""


class BootgraftError(Exception):
    """Base of all errors whose message is meant for the person: what, on what, what to do."""

    exit_status = 1


class RefusedError(BootgraftError):
    """The graft cannot be done here; nothing has been changed."""


class AmbiguousError(RefusedError):
    """Several candidates fit; the message names them and the option that chooses.

    `candidates` are values of that option, as far as they are to be offered for a choice.
    """

    def __init__(self, message: str, candidates: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.candidates = candidates


class OccupiedError(RefusedError):
    """A person works at the machine's console; nothing is done for anybody else."""


class InvalidRequestError(BootgraftError):
    """The request itself is wrong: an unknown option, a directory that is not there."""

    exit_status = 2


class ChangesLeftError(BootgraftError):
    """Failed, and some changes could not be taken back; the message says which."""

    exit_status = 3
