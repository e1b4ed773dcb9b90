"""Downloads from a stand-in for the hub, through the real client's connections and into a real cache."""

import json
import threading

import numpy as np
import pytest
from huggingface_hub import constants, snapshot_download
from huggingface_hub.utils import close_session
from safetensors.numpy import save

import danqing.weights.hub as connection
from danqing.cli.info import describe_checkpoint
from danqing.errors import CheckpointError, DanqingError, RequestError, ResourceError
from danqing.weights.hub_download import download, hub_plan, local, obtain, outline
from danqing.weights.hub_files import parse_hub_file, parse_hub_id
from tests.hub_stand_in import TOKEN, Fault, HubStandIn

REPO = parse_hub_id("someone/small")
SHARDS = [f"transformer/x-0000{place}-of-00002.safetensors" for place in (1, 2)]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with a small checkpoint, and an empty cache."""
    stand_in = HubStandIn()
    monkeypatch.setattr(constants, "ENDPOINT", stand_in.url)
    template = stand_in.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(connection, "_PAUSE", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    stand_in.publish("someone/small", small())
    with stand_in.running():
        yield stand_in
    close_session()


def small(salt=0):
    """Return the files of something like a checkpoint, its denoiser in two shards."""
    rng = np.random.default_rng(salt)
    files = {name: save({name: rng.random((100, 100), np.float32)}) for name in SHARDS}
    files["text_encoder/model.safetensors"] = save({"w": rng.random(500, np.float32)})
    files["vae/diffusion_pytorch_model.safetensors"] = save({"w": np.zeros(50, np.float32)})
    weight_map = {name: name.partition("/")[2] for name in SHARDS}
    index = {"weight_map": weight_map}
    names = [f"{part}/config.json" for part in ("transformer", "vae", "text_encoder")]
    names += ["model_index.json", "tokenizer/tokenizer.json", "scheduler/scheduler_config.json"]
    configs = {name: {"of": name} for name in names} | {"transformer/x.safetensors.index.json": index}
    files |= {name: json.dumps(value).encode() for name, value in configs.items()}
    return files | {
        "README.md": b"# small",
        "run.py": b"print(1)",
        "vae/old.bin": b"pickle",
        "a.png": b"picture",
    }


UNNEEDED = {"README.md", "run.py", "vae/old.bin", "a.png"}


def resolved(hub):
    """Return the files whose content was asked for, by their own names."""
    return {path.split("/", 5)[5] for path in hub.contents()}


def weights_sent(hub):
    return {path: count for path, count in hub.sent.items() if path.endswith(".safetensors")}


def test_a_plan_fetches_no_weights_and_a_download_nothing_else(hub):
    plan = hub_plan(REPO)
    assert not weights_sent(hub)
    assert plan.size == sum(len(data) for name, data in small().items() if name not in UNNEEDED)
    folder = download(plan)
    assert resolved(hub) == set(small()) - UNNEEDED
    assert all((folder / name).read_bytes() == data for name, data in small().items() if name not in UNNEEDED)
    assert hub_plan(REPO).missing == ()


def test_progress_counts_every_byte(hub):
    plan, told = hub_plan(REPO), []
    download(plan, show=lambda name, done: told.append(done))
    assert told[-1] == plan.to_fetch
    assert told == sorted(told)


def test_parts_that_are_given_are_not_fetched(hub):
    folder = obtain(REPO, given=["transformer"])
    assert resolved(hub).isdisjoint(SHARDS)
    assert (folder / "transformer" / "config.json").is_file()
    assert obtain(REPO, given=["transformer"], offline=True) == folder
    with pytest.raises(CheckpointError, match="found no transformer/"):
        obtain(REPO, offline=True)


def test_describing_takes_the_conditioner_alone(hub):
    obtain(REPO, tasks={"describe"})
    assert set(weights_sent(hub)) == {"text_encoder/model.safetensors"}


def test_a_download_goes_on_after_a_cut_connection(hub):
    hub.faults[SHARDS[0]] = [Fault(cut=1000), Fault(cut=20_000), Fault(status=503)]
    folder = obtain(REPO)
    assert (folder / SHARDS[0]).read_bytes() == small()[SHARDS[0]]
    assert hub.sent[SHARDS[0]] == len(small()[SHARDS[0]])


def test_a_later_run_goes_on_where_one_ended(hub):
    hub.faults[SHARDS[0]] = [Fault(cut=30_000), *[Fault(status=500)] * 5]
    with pytest.raises(ResourceError, match=r"127.0.0.1 has trouble \(status 500\); try again later"):
        obtain(REPO)
    hub.faults.clear()
    plan = hub_plan(REPO)
    assert plan.to_fetch == sum(file.size for file in plan.missing) - 30_000
    assert (download(plan) / SHARDS[0]).read_bytes() == small()[SHARDS[0]]
    assert hub.sent[SHARDS[0]] == len(small()[SHARDS[0]])


def test_a_server_without_ranges_serves_too(hub):
    hub.faults[SHARDS[0]] = [Fault(cut=1000), Fault(no_ranges=True)]
    assert (obtain(REPO) / SHARDS[0]).read_bytes() == small()[SHARDS[0]]


@pytest.mark.parametrize("name", [SHARDS[1], "tokenizer/tokenizer.json"])
def test_wrong_content_is_fetched_again_once_and_never_kept(hub, name):
    hub.faults[name] = [Fault(corrupt=True)]
    assert (obtain(REPO) / name).read_bytes() == small()[name]
    hub.publish("someone/small", small(salt=1) | {"tokenizer/tokenizer.json": b'{"other": 1}'})
    hub.faults[name] = [Fault(corrupt=True)] * 2
    plan = hub_plan(REPO)
    with pytest.raises(CheckpointError, match=f"{name}: expected content of checksum .* found .* twice"):
        download(plan)
    assert not (plan.result / name).exists()
    file = next(file for file in plan.files if file.path == name)
    assert not plan.place.blob(file).exists()
    assert not plan.place.partial(file).exists()


def test_the_real_client_finds_what_we_fetched(hub):
    folder = obtain(REPO)
    hub.sent.clear()
    only = ["*/*.json", "*/*.safetensors"]
    theirs = snapshot_download("someone/small", allow_patterns=only)
    assert theirs == str(folder)
    assert not hub.sent


def test_we_find_what_the_real_client_fetched(hub):
    theirs = snapshot_download("someone/small")
    hub.asked.clear()
    assert str(local(REPO)) == theirs
    assert not hub.asked
    assert hub_plan(REPO).missing == ()


def test_two_at_once_fetch_every_byte_once(hub):
    plan = hub_plan(REPO)
    both = [threading.Thread(target=download, args=(plan,)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert local(REPO) == plan.result
    assert weights_sent(hub) == {
        name: len(data) for name, data in small().items() if name in weights_sent(hub)
    }


def test_what_is_in_the_cache_needs_no_hub(hub, monkeypatch):
    folder = obtain(REPO)
    hub.asked.clear()
    assert obtain(REPO) == folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert obtain(REPO) == folder
    with pytest.raises(
        CheckpointError, match=r"someone/other: expected it in the cache, since this is offline"
    ):
        obtain(parse_hub_id("someone/other"))
    with pytest.raises(ResourceError, match="found HF_HUB_OFFLINE=1"):
        hub_plan(REPO)
    assert not hub.asked


def test_a_commit_stays_and_a_branch_moves_when_told(hub):
    first = obtain(REPO)
    changed = small() | {SHARDS[1]: save({SHARDS[1]: np.ones((100, 100), np.float32)})}
    commit = hub.publish("someone/small", changed).commit
    hub.sent.clear()
    assert obtain(REPO) == first  # nobody is asked
    second = download(hub_plan(REPO))
    assert second.name == commit
    assert hub.sent == {SHARDS[1]: len(changed[SHARDS[1]])}  # the rest is the same content
    assert local(REPO) == second
    assert local(parse_hub_id(f"someone/small@{first.name}")) == first
    with pytest.raises(CheckpointError, match="expected the revision v9, found none of that name"):
        hub_plan(parse_hub_id("someone/small@v9"))


def test_a_full_disk_is_told_before(hub):
    listing = {"sha": "a" * 40, "tags": ["license:mit"], "siblings": []}
    size = {"size": 2**42, "sha256": "b" * 64}
    listing["siblings"] = [{"rfilename": "x.gguf", "lfs": size}]
    hub.repositories["someone/small"].listing = listing
    with pytest.raises(
        ResourceError, match=r"expected 4398.31 GB free in .*cache, found [\d.]+ GB; free some"
    ):
        obtain(parse_hub_file("someone/small:x.gguf"))


@pytest.mark.parametrize("stated", [{"licence": "other", "license_name": "qwen-research"}, {"licence": None}])
def test_a_licence_is_accepted_once(hub, stated):
    hub.publish("someone/small", small(), **stated)
    with pytest.raises(
        RequestError, match=r"expected consent to its licence .* repeat with --accept-licence"
    ):
        obtain(REPO)
    assert not weights_sent(hub)
    obtain(REPO, accept_licence=True)
    hub.publish("someone/small", small(salt=1), **stated)
    assert hub_plan(REPO).accepted
    hub.publish("someone/small", small(salt=1), licence="cc-by-nc-4.0")
    assert not hub_plan(REPO).accepted


def test_gated_and_private_repositories_need_a_token_that_stays_with_the_hub(hub, monkeypatch, caplog, capfd):
    hub.publish("someone/small", small(), gated=True)
    with pytest.raises(
        ResourceError, match=r"found a gated repository; ask for access at .*/someone/small, then set"
    ):
        obtain(REPO)
    monkeypatch.setenv("HF_TOKEN", "hf_of-another")
    with pytest.raises(ResourceError, match=r"found a gated repository; ask for access .*, then repeat"):
        obtain(REPO)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.publish("someone/small", small(), gated=True, private=True)
    obtain(REPO)
    assert {one.authorised for one in hub.asked if one.store} == {False}
    assert not any("hf_of" in said for said in (caplog.text, *capfd.readouterr()))


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "expected a folder here or a repository at 127.0.0.1, found neither"),
        (404, "found neither; for a private one set HF_TOKEN or run hf auth login"),
        (403, r"refuses \(status 403\); set HF_TOKEN"),
        (429, r"asks to wait \(status 429\)"),
        (502, r"has trouble \(status 502\)"),
    ],
)
def test_refusals_are_one_line(hub, status, said):
    hub.faults["listing"] = [Fault(status=status)] * 5
    with pytest.raises(DanqingError, match=said) as refused:
        obtain(REPO)
    assert "\n" not in str(refused.value)


def test_a_busy_hub_is_waited_for(hub):
    hub.faults["listing"] = [Fault(status=429, headers={"Retry-After": "0"}), Fault(status=503)]
    assert hub_plan(REPO).commit


def test_no_network_and_no_hub_are_one_line(hub, monkeypatch):
    hub.store.server_close()
    monkeypatch.setattr(connection, "_TRIES", 2)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{hub.store.server_port}")
    with pytest.raises(
        ResourceError, match=r"no answer from 127.0.0.1 \(ConnectError\); is there a network\?"
    ):
        obtain(REPO)
    monkeypatch.setattr(constants, "ENDPOINT", "mirror")
    with pytest.raises(ResourceError, match="HF_ENDPOINT: expected an address like"):
        obtain(REPO)


def test_a_link_that_leads_out_of_the_cache_is_not_followed(hub, tmp_path):
    commit = hub.repositories["someone/small"].commit
    snapshot = tmp_path / "cache" / "models--someone--small" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (snapshot / "transformer").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="found a link that leads out of it"):
        obtain(REPO)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_pickles_are_refused_before_anything_is_fetched(hub):
    files = small()
    files["vae/diffusion_pytorch_model.bin"] = files.pop("vae/diffusion_pytorch_model.safetensors")
    hub.publish("someone/small", files)
    with pytest.raises(CheckpointError, match="vae: refused, since its weights are pickles alone"):
        obtain(REPO)
    assert not hub.sent


def test_a_single_file(hub):
    hub.publish("someone/files", {"dir/x.gguf": b"GGUF" * 9, "y.gguf": b"GGUF"})
    wanted = parse_hub_file("someone/files:dir/x.gguf")
    path = obtain(wanted)
    assert path.read_bytes() == b"GGUF" * 9
    assert obtain(wanted, offline=True) == path
    assert set(hub.sent) == {"dir/x.gguf"}
    with pytest.raises(CheckpointError, match="found single files; take one into another checkpoint"):
        obtain(parse_hub_id("someone/files"))


def test_an_outline_says_what_the_folder_would(hub, tiny_folder):
    hub.add("someone/tiny", tiny_folder)
    plan = hub_plan(parse_hub_id("someone/tiny"))
    with outline(plan) as folder:
        said = describe_checkpoint(str(folder))
        sizes = [(folder / file.path).stat() for file in plan.files if file.path.endswith(".safetensors")]
        assert sum(one.st_size for one in sizes) > 10**6
    assert not folder.exists()
    assert said | {"path": ""} == describe_checkpoint(str(tiny_folder)) | {"path": ""}
    assert hub_plan(parse_hub_id("someone/tiny")).missing
