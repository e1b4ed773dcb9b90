"""Names of repositories, and listings that cannot be trusted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danqing.errors import CheckpointError, RequestError
from danqing.weights.hub_cache import repository_of
from danqing.weights.hub_files import (
    config_files,
    is_hub_id,
    parse_hub_file,
    parse_hub_id,
    parse_listing,
    single_file,
    wanted_parts,
    weight_files,
    word_files,
)

COMMIT, SHA1, SHA256 = "a" * 40, "b" * 40, "c" * 64


def listing(*paths, **more):
    siblings = [
        {"rfilename": path, "size": 7, "blobId": SHA1}
        | ({"lfs": {"sha256": SHA256, "size": 7}} if path.endswith((".safetensors", ".bin")) else {})
        for path in paths
    ]
    return parse_listing("a/b", {"sha": COMMIT, "siblings": siblings, **more})


@pytest.mark.parametrize(
    ("text", "repo", "revision"),
    [
        ("Qwen/Qwen-Image", "Qwen/Qwen-Image", None),
        ("Qwen/Qwen-Image-2.1@main", "Qwen/Qwen-Image-2.1", "main"),
        ("a/b@refs/pr/3", "a/b", "refs/pr/3"),
        ("hf://a/b", "a/b", None),
        ("hf:/a/b@v1", "a/b", "v1"),  # what pathlib makes of it
    ],
)
def test_repositories_by_name(text, repo, revision):
    found = parse_hub_id(text)
    assert found is not None
    assert (found.repo, found.revision, found.path) == (repo, revision, None)


@pytest.mark.parametrize(
    "text",
    [
        "nano",
        "./a/b",
        "/a/b",
        "a/b/c",
        "../b",
        "a/..",
        "a/b@../x",
        "a/b@",
        "a--b/c",
        "a/b.safetensors",
        "",
        "a/b c",
    ],
)
def test_what_is_no_repository(text):
    assert parse_hub_id(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b:dir/x.gguf", ("a/b", None, "dir/x.gguf")),
        ("a/b@v1:x.safetensors", ("a/b", "v1", "x.safetensors")),
        ("hf://a/b/dir/x.gguf", ("a/b", None, "dir/x.gguf")),
        ("hf:/a/b@v1/x.gguf", ("a/b", "v1", "x.gguf")),
        ("a/b:../x.gguf", None),
        ("a/b:/etc/x.gguf", None),
        ("x.gguf", None),
        ("dir/x.gguf", None),
    ],
)
def test_files_by_name(text, expected):
    found = parse_hub_file(text)
    assert (found and (found.repo, found.revision, found.path)) == expected


def test_a_folder_that_is_here_is_no_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("models/mine")
    (tmp_path / "models" / "mine").mkdir(parents=True)
    assert not is_hub_id("models/mine")


def test_a_folder_of_the_cache_knows_its_repository(tmp_path):
    assert repository_of(tmp_path / "models--Qwen--Qwen-Image" / "snapshots" / COMMIT) == "Qwen/Qwen-Image"
    assert repository_of(tmp_path / "Qwen-Image") is None


def test_parts_that_tasks_need():
    assert wanted_parts(None) == ("transformer", "vae", "text_encoder")
    assert wanted_parts({"generate", "describe"}, ["transformer"]) == ("vae", "text_encoder")
    assert wanted_parts({"describe"}) == ("text_encoder",)


BAD_NAMES = ("../x.json", "a/../../x.json", "/etc/passwd", "a//b", "a/./b", "", "..\\x.json", "C:\\x", "a\0b")


@pytest.mark.parametrize("path", [*BAD_NAMES, "a\nb", " /x", "x" * 2000, 7, None])
def test_names_that_lead_elsewhere_are_refused(path):
    with pytest.raises(CheckpointError, match="a/b: refused, since it lists a file called") as refused:
        listing_of({"rfilename": path, "size": 7, "blobId": SHA1})
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 200


def listing_of(*siblings, sha=COMMIT):
    return parse_listing("a/b", {"sha": sha, "siblings": list(siblings)})


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"size": -1, "blobId": SHA1}, "expected a size"),
        ({"size": 2**60, "blobId": SHA1}, "expected a size"),
        ({"size": "7", "blobId": SHA1}, "expected a size"),
        ({"size": True, "blobId": SHA1}, "expected a size"),
        ({"blobId": SHA1}, "expected a size"),
        ({"size": 7, "blobId": "../../../x"}, "expected a checksum"),
        ({"size": 7}, "expected a checksum"),
        ({"size": 7, "lfs": {"size": 7, "sha256": SHA1}}, "expected a checksum"),
        ({"size": 7, "lfs": []}, "expected a checksum"),
    ],
)
def test_sizes_and_checksums_are_checked(entry, said):
    with pytest.raises(CheckpointError, match=said):
        listing_of({"rfilename": "x.json", **entry})


@pytest.mark.parametrize("sha", [None, "main", "../../x", "a" * 39, 7])
def test_a_commit_is_a_checksum(sha):
    with pytest.raises(CheckpointError, match="expected a commit"):
        listing_of(sha=sha)


@pytest.mark.parametrize("answer", [None, [], "x", {"sha": COMMIT}, {"sha": COMMIT, "siblings": {}}])
def test_an_answer_of_another_kind_is_refused(answer):
    with pytest.raises(CheckpointError, match="expected a commit and its files"):
        parse_listing("a/b", answer)


def test_twice_the_same_and_far_too_many_are_refused():
    with pytest.raises(CheckpointError, match=r"found x.json twice"):
        listing("x.json", "x.json")
    with pytest.raises(CheckpointError, match="at most 20000 files"):
        parse_listing("a/b", {"sha": COMMIT, "siblings": [None] * 20_001})


@pytest.mark.parametrize(
    ("said", "name", "permissive"),
    [
        ({"cardData": {"license": "apache-2.0"}}, "apache-2.0", True),
        ({"tags": ["x", "license:mit"]}, "mit", True),
        ({"cardData": {"license": "other", "license_name": "qwen-research"}}, "qwen-research", False),
        ({"cardData": {"license": "other", "license_name": "MIT"}}, "mit (of its own)", False),
        ({"cardData": {"license": {"x": 1}, "license_name": {"y": 2}}}, "{'x': 1}", False),
        ({"cardData": {"license": "cc-by-nc-4.0"}}, "cc-by-nc-4.0", False),
        ({"cardData": {"license": ["mit", "cc-by-nc-4.0"]}}, "mit and cc-by-nc-4.0", False),
        ({"cardData": {"license": "mit\x1b[2J"}}, "mit?[2j", False),
        ({"cardData": None}, "no licence stated", False),
        ({}, "no licence stated", False),
    ],
)
def test_licences(said, name, permissive):
    licence = listing(**said).licence
    assert (licence.name, licence.permissive) == (name, permissive)


def test_only_what_a_checkpoint_needs_is_chosen():
    denoiser = ["config.json", "model.py", "x.safetensors", "x.fp16.safetensors", "x.bin", "deep/config.json"]
    others = ["README.md", "run.py", "picture.png", "onnx/config.json", "scheduler/scheduler_config.json"]
    words = [f"tokenizer/{name}" for name in ("vocab.json", "merges.txt", "t.py")]
    found = listing("model_index.json", *(f"transformer/{name}" for name in denoiser), *others, *words)
    configs = [file.path for file in config_files(found, ["transformer"])]
    assert configs == ["model_index.json", "transformer/config.json", "scheduler/scheduler_config.json"]
    assert [file.path for file in word_files(found)] == ["tokenizer/vocab.json", "tokenizer/merges.txt"]
    assert [file.path for file in weight_files(found, "transformer", None)] == ["transformer/x.safetensors"]


@pytest.mark.parametrize(
    ("names", "index", "said"),
    [
        (["x.bin"], None, "pickles alone"),
        (["x.bin", "y.bin"], {"weight_map": {"w": "x.bin", "v": "y.bin"}}, "pickles alone"),
        ([], None, "expected one .safetensors file or an index of several, found none"),
        (["x.safetensors", "y.safetensors"], None, "found x.safetensors, y.safetensors"),
        (["x.safetensors"], {"weight_map": {"w": "../../x.safetensors"}}, "which is not there"),
        (["x.safetensors"], {"weight_map": {"w": "z.safetensors"}}, "which is not there"),
        (["x.safetensors"], {"weight_map": ["x.safetensors"]}, "expected a weight_map"),
        (["x.safetensors"], {}, "expected a weight_map"),
    ],
)
def test_weights_that_are_refused(names, index, said):
    with pytest.raises(CheckpointError, match=said):
        weight_files(listing(*(f"vae/{name}" for name in names)), "vae", index)


def test_single_files():
    found = listing("dir/x.gguf", "x.bin")
    assert single_file(found, "dir/x.gguf").path == "dir/x.gguf"
    with pytest.raises(CheckpointError, match=r"expected y.gguf, found no such file; it has dir/x.gguf"):
        single_file(found, "y.gguf")
    with pytest.raises(RequestError, match=r"expected a .safetensors or .gguf file, found x.bin"):
        single_file(found, "x.bin")
    with pytest.raises(CheckpointError, match=r"--transformer a/b:dir/x.gguf"):
        config_files(found, [])


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from([COMMIT, SHA1, SHA256, "x.json"])
)
KEYS = (
    "sha",
    "siblings",
    "rfilename",
    "size",
    "blobId",
    "lfs",
    "sha256",
    "cardData",
    "license",
    "license_name",
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=20,
)


@given(ANYTHING, st.lists(ANYTHING, max_size=3))
def test_any_answer_is_read_or_refused_in_one_line(card, siblings):
    try:
        found = parse_listing("a/b", {"sha": COMMIT, "siblings": siblings, "cardData": card, "tags": card})
        said = found.licence.name
    except CheckpointError as refused:
        said = str(refused)
    assert len(said) < 400
    assert said.isprintable()
