"""The one logger of the package.

Modules write `from danqing.log import logger`. Importing danqing shows nothing by itself: a program decides,
and the command line decides with `show`. Results go to stdout, everything said here to stderr.
"""

import logging
import sys
from typing import TextIO

logger = logging.getLogger("danqing")
logger.addHandler(logging.NullHandler())


def show(level: int = logging.WARNING, stream: TextIO | None = None) -> logging.Handler:
    """Print log lines of `level` and above to `stream` (default: stderr); a second call replaces it."""
    for old in [h for h in logger.handlers if not isinstance(h, logging.NullHandler)]:
        logger.removeHandler(old)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(logging.Formatter("danqing: %(levelname)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    return handler
