"""The logger."""

import io
import logging
import subprocess
import sys

import pytest

from danqing.log import logger, show


@pytest.fixture(autouse=True)
def restored():
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


def test_the_library_alone_prints_nothing():
    code = "from danqing.log import logger; logger.warning('quiet')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_show_writes_to_stderr_and_never_to_stdout():
    code = "from danqing.log import logger, show; show(); logger.warning('taken'); logger.info('dropped')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "danqing: WARNING: taken\n")


def test_a_second_show_replaces_the_first():
    first, second = io.StringIO(), io.StringIO()
    show(stream=first)
    show(logging.INFO, second)
    logger.info("once")
    assert first.getvalue() == ""
    assert second.getvalue() == "danqing: INFO: once\n"


def test_loggers_of_modules_are_children():
    stream = io.StringIO()
    show(stream=stream)
    logging.getLogger("danqing.weights").warning("from below")
    assert "from below" in stream.getvalue()
