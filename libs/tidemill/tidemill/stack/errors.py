"""What can go wrong with the embedded stack; the command line shows the message and nothing else."""


class StackError(Exception):
    """The stack could not do what was asked."""


class StartFailedError(StackError):
    """A process did not become ready; the message carries the end of its log."""


class AlreadyRunningError(StackError):
    """Another supervisor holds this home."""


class NotRunningError(StackError):
    """No supervisor holds this home."""
