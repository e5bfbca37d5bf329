"""Errors a user meets, each with the exit code of the command that raised it."""


class EasyRLHFError(Exception):
    """Base class; the message is the whole story: place, value, rule, way out.

    shown_by  number of the process that shows it, where several have it; None when it is shown already
    """

    exit_code = 1
    shown_by: int | None = 0


class RunError(EasyRLHFError, RuntimeError):
    """The run failed after it had begun (NaN loss, a reward function that raised); exit code 1."""


class NotFinite(RunError):
    """A loss, a gradient or weights are NaN or infinite: the same command would come to the same end; exit code 1."""


class ServiceError(RunError):
    """What a run asks for numbers has failed, a reward source or a sampler; the run is saved before it ends."""


class ServiceStopped(ServiceError):
    """The run was asked to stop while it waited for what it asks; it is saved; exit code 3."""

    exit_code = 3


class InputError(EasyRLHFError, ValueError):
    """A file, flag or folder the user gave cannot be used; raised before any training; exit code 2."""

    exit_code = 2


class SettingError(InputError):
    """A setting has a value it cannot have.

    `setting` is its name, from which the command line finds the flag or the line of the YAML file.
    """

    def __init__(self, setting: str, message: str):
        super().__init__(message)
        self.setting = setting

    def __reduce__(self) -> tuple:
        """How it travels from one process to another."""
        return type(self), (self.setting, str(self)), self.__dict__


class RunStopped(EasyRLHFError):
    """The run was asked to stop and saved what it had; the same command continues it; exit code 3."""

    exit_code = 3
