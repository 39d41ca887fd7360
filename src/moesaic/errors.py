"""Every error that moesaic raises.

::

    MoesaicError
    ├── RecipeError                     a recipe that cannot be read, or asks for what does not exist
    ├── DataError                       a source that cannot be read, or a domain with too little text
    │   └── LeakageError                rows that were to be unseen and are not
    ├── CheckpointError                 a checkpoint that is damaged, incomplete or of the wrong kind
    │   └── IncompatibleMembersError    members that do not fit together
    ├── MemberError                     a member gives what cannot be combined: it is not a number
    ├── TrainingError                   training that cannot go on: the loss is not a number
    ├── BudgetError                     a way of combining that costs more than the arena allows
    └── RunError                        a run folder that cannot be used: taken, in use, or on a full disk

A wrong argument to a function is a ``ValueError``. Each message says where, what was given, what is allowed and
what to do next.
"""

import errno


class MoesaicError(Exception):
    """The root of moesaic's own errors."""


class RecipeError(MoesaicError):
    """A recipe cannot be read, or asks for what does not exist."""


class DataError(MoesaicError):
    """A source cannot be read, or a domain has too little text."""


class LeakageError(DataError):
    """Rows that no member should have seen were seen; the message names the members."""


class CheckpointError(MoesaicError):
    """A checkpoint is damaged, incomplete or of the wrong kind."""


class IncompatibleMembersError(CheckpointError):
    """Members do not fit together; the message names every difference with both values."""


class MemberError(MoesaicError):
    """A member gives what cannot be combined."""


class TrainingError(MoesaicError):
    """Training cannot go on."""


class BudgetError(MoesaicError):
    """Ways of combining cost more than the arena allows; the message names them all."""


class RunError(MoesaicError):
    """A run folder cannot be used."""


def is_disk_full(error: BaseException) -> bool:
    """Whether something failed for want of room on the disk; safetensors says so in its own way."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return type(error).__name__ == "SafetensorError" and f"(os error {errno.ENOSPC})" in str(error)


def first_sentence(error: Exception) -> str:
    """What another library's error says first, to go on within a message of our own.

    Example:
        >>> first_sentence(ValueError("No such shape. See the manual."))
        'No such shape'
    """
    return str(error).strip().split(". ")[0].removesuffix(".")
