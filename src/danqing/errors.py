"""The exceptions danqing raises on purpose.

DanqingError
├── ConfigError       a recipe, preset or checkpoint config has a wrong key or value
├── RequestError      a user asked for something this checkpoint cannot do
├── CheckpointError   files are missing, truncated or do not match the model
├── DataError         training or evaluation data cannot be read or built
└── ResourceError     memory, disk, device or permission is missing

Every message is one line: what was expected, what was found, what to do. The command line prints it and exits
with code 2; the server turns it into an error body.
"""


class DanqingError(Exception):
    """Any error that danqing explains to its user."""


class ConfigError(DanqingError):
    """A recipe, preset or checkpoint config has a wrong key or value."""


class RequestError(DanqingError):
    """A request asks for something this checkpoint cannot do."""


class CheckpointError(DanqingError):
    """Checkpoint files are missing, truncated or do not match the model."""


class DataError(DanqingError):
    """Training or evaluation data cannot be read or built."""


class ResourceError(DanqingError):
    """Memory, disk, a device or a permission is missing."""
