"""What can go wrong, in words for the person at the terminal.

Every message says what is wrong, where, what is allowed, and what to do next; never a traceback.
"""


class ModesweepError(Exception):
    """Base of every error that modesweep raises on purpose; the command line prints it and exits."""


class SweepError(ModesweepError):
    """The sweep file, an option or a name in them cannot be used. Nothing was started; exit code 2."""


class StoreError(ModesweepError):
    """The results folder cannot be used: locked by another run, damaged, or the disk is full."""


class ExecutorError(ModesweepError):
    """Workers could not be started or were lost for good."""


class TrackingError(ModesweepError):
    """MLflow could not be reached; the sweep itself is not harmed."""
