"""The words for failure. A handler knows two: `Later` and `Never`; everything it did not expect counts as `Later`."""


class RuntimeFailure(Exception):  # noqa: N818 - its children are words that read as sentences: raise Later(...)
    """The base of every error this package raises on purpose."""


class Later(RuntimeFailure):
    """It cannot be done now: back off, hold the partition, try the same records again."""


class Never(RuntimeFailure):
    """It can never be done: the record goes to the dead letters with this reason."""


class Fenced(Later):
    """Another owner has taken over: whatever was being written was rolled back."""


class Stalled(RuntimeFailure):
    """Too many records are being dead-lettered: the partition stops until a person has looked."""


class Configuration(RuntimeFailure):
    """The settings cannot be run as they are; the message says what to change."""
