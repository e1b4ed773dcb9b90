"""Text in the repository speaks to any reader on any machine."""

import re
from pathlib import Path

import pytest

from tests.guards.files import short, texts

HOSTS = {  # add a host here when a document really needs to point there
    "127.0.0.1",
    "arxiv.org",
    "creativecommons.org",
    "example.com",
    "github.com",
    "huggingface.co",
    "localhost",
    "semver.org",
    "testserver",
    "unicode.org",
    "www.apache.org",
    "www.unicode.org",
    "www.w3.org",
}
ADDRESS = re.compile(r"\bhttps?://(?:[^/@\s]*@)?([\w.-]+)")
PRIVATE = {
    "a path of one machine": re.compile(r"(?<![\w.:}*)/-])/(?:root|home|Users|work|opt|mnt|srv)/\w"),
    "a package index": re.compile(r"--(?:extra-)?index-url|--find-links|\bpypi\.org|pythonhosted", re.I),
    "how the work was organised": re.compile(r"(?<!scope=\")(?<!pytest_)\bsessions?\b", re.I),
}
SELF = Path(__file__)
TEXTS = {path: text for path, text in texts().items() if path != SELF}


def _found(text: str) -> list[str]:
    hits = [f"{what}: {m[0]}" for what, pattern in PRIVATE.items() for m in pattern.finditer(text)]
    return hits + [f"unknown host: {host}" for host in ADDRESS.findall(text) if host not in HOSTS]


@pytest.mark.parametrize("path", TEXTS, ids=short)
def test_text_names_no_machine_index_or_session(path):
    assert _found(TEXTS[path]) == []


@pytest.mark.parametrize(
    "text",
    [
        "open('/home/someone/data')",
        "see /opt/wheels",
        "pip install --index-url X",
        "as found in the last session",
        "https://internal.host/simple",
        "https://user:key@internal.host",
    ],
)
def test_the_scan_finds_what_it_should(text):
    assert _found(text)


@pytest.mark.parametrize(
    "text",
    ['scope="session"', "https://github.com/QwenLM", "src/home/x", "http://127.0.0.1:8000/v1", "../work/x"],
)
def test_the_scan_leaves_the_rest_alone(text):
    assert _found(text) == []
