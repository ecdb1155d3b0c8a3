"""What can go wrong, in words for the person at the terminal.

Every message says what is wrong, where, what is allowed, and what to do next; never a traceback.
"""


class ModesweepError(Exception):
    """Base of every error that modesweep raises on purpose; the command line prints it and exits."""


class SweepError(ModesweepError):
    """The sweep file, an option or a name in them cannot be used. Nothing was started; exit code 2."""


class StoreError(ModesweepError):
    """The results folder cannot be used: locked by another run, damaged, or the disk is full."""


class NoResultsError(StoreError):
    """No results, or not one cell's, go by the name that was given. Nothing was started; exit code 2.

    Args:
        said: all but what to do next, where that is to run a sweep.
        sweep: the name of the sweep that has no results here; of which shipped ones are not known where this is raised.
        looking: the options that lead a command to where they were looked for.
    """

    def __init__(self, said: str, sweep: str | None = None, looking: str = "") -> None:
        super().__init__(said if sweep is None else f"{said} Next: run its YAML file first.")
        self.said, self.sweep, self.looking = said, sweep, looking


class ExecutorError(ModesweepError):
    """Workers could not be started or were lost for good."""


class TrackingError(ModesweepError):
    """MLflow could not be reached; the sweep itself is not harmed."""
