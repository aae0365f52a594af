"""Probes from the Hugging Face Hub: by id and revision, with the numbers they were saved with."""

from __future__ import annotations

import json
import subprocess
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, RepoUrl, constants
from safetensors.torch import load, save

from probes import HeadConfig, Probe, ProbeError
from tests.cascade.fake_hub import NOWHERE, FakeHub, ask, ask_anew, commit_of
from tests.probes.test_export import sample
from tests.probes.test_probe import CONFIG, ISOLATED, probe

STATES = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
LOAD = f"""
import json, sys, time
import probes, torch
from probes import ProbeError
for name, options in json.loads(sys.argv[1]):
    start = time.perf_counter()
    try:
        probe = probes.Probe.from_pretrained(name, **options)
        found = [probe.predict(torch.tensor({STATES.tolist()})).tolist(), len(probe.picture or b"")]
    except ProbeError as error:
        found = str(error)
    print(json.dumps([found, time.perf_counter() - start]))
"""
ALONE = ISOLATED.split("probe = ")[0] + LOAD


def load_from(url: str, home: Path, wanted: list[tuple[str, dict]], **environment: str) -> list:
    return _loaded(ask(url, home, "-c", LOAD, json.dumps(wanted), **environment))


def load_alone_from(url: str, home: Path, wanted: list[tuple[str, dict]]) -> list:
    """Where there is only torch and numpy."""
    return _loaded(ask_anew(url, home, "-c", ALONE, json.dumps(wanted)))


def _loaded(done: subprocess.CompletedProcess[str]) -> list:
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert max(seconds for _, seconds in found) < 15  # a file that is asked for in vain is tried for 24 s
    return [said for said, _ in found]


def files(made: Probe, folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in made.save_pretrained(folder).iterdir()}


def changed(whole: dict[str, bytes], **tensors) -> dict[str, bytes]:
    """With tensors replaced by name (a point is two underscores), or left out where they are none."""
    new = load(whole["model.safetensors"]) | {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    return whole | {"model.safetensors": save({name: tensor for name, tensor in new.items() if tensor is not None})}


def test_a_probe_is_loaded_by_id_and_revision_with_its_numbers(tmp_path):
    old, new = probe(), probe(replace(CONFIG, head=HeadConfig(width=5, depth=1), calibration="isotonic"))
    new.picture = b"\x89PNG"
    first, second = files(old, tmp_path / "old"), files(new, tmp_path / "new")
    hub = FakeHub(models={"someone/p-ik": {"main": second, "v1": first}})
    here = [[new.predict(STATES).tolist(), 4], *[[old.predict(STATES).tolist(), 0]] * 2]
    wanted = [("someone/p-ik", {}), *[("someone/p-ik", {"revision": r}) for r in ("v1", commit_of(first))]]
    assert load_alone_from(hub.url, tmp_path / "home", wanted) == here
    assert load_from(hub.url, tmp_path / "home", wanted) == here
    asked = [path for path in hub.requests if path.startswith("/large/")]
    assert len(asked) == 2  # each commit's weights once
    hub.close()
    assert load_from(NOWHERE, tmp_path / "home", wanted) == here
    cached = [*wanted, ("someone/p-ik", {"local_files_only": True}), ("someone/else", {"local_files_only": True})]
    *there, absent = load_from(NOWHERE, tmp_path / "home", cached, HF_HUB_OFFLINE="1")
    assert there == [*here, here[0]]
    assert absent.startswith("Expected someone/else in the Hub's cache (HF_HOME), but not all of it is there")


def test_the_code_of_a_pushed_probes_card_runs_as_printed(tmp_path):
    made = probe()
    made._hub_id = "someone/p-ik"
    hub = FakeHub(models={"someone/p-ik": {"main": files(made, tmp_path / "probe")}})
    code = sample((tmp_path / "probe" / "README.md").read_text())
    done = ask(hub.url, tmp_path / "home", "-c", code + "print(p_ik.shape)")
    hub.close()
    assert done.stdout == "(3,)\n", done.stderr


def test_a_probe_that_the_hub_has_not_or_has_not_whole_is_one_line(tmp_path):
    whole = files(probe(), tmp_path / "probe")
    newer = json.dumps(json.loads(whole["config.json"]) | {"format": 2}).encode()
    troubles = {
        "someone/none": ({}, "Expected a folder 'someone/none', or someone/none at http://127.0.0.1"),
        "someone/gated": (whole, "it is gated: ask for it at https://huggingface.co/someone/gated, then `hf auth"),
        "someone/v9": (whole, "Expected revision v9 in someone/v9, but the Hub has none such"),
        "someone/unnamed": (
            {k: v for k, v in whole.items() if k != "config.json"},
            "Expected config.json in someone/unnamed, but the Hub has no such file there",
        ),
        "someone/empty": (
            {k: v for k, v in whole.items() if k != "model.safetensors"},
            "there is no model.safetensors",
        ),
        "someone/less": (changed(whole, head__0__weight=None), "Expected tensor 'head.0.weight' in"),
        "someone/more": (changed(whole, extra=torch.zeros(2)), "Expected no tensor 'extra' in"),
        "someone/wide": (changed(whole, mean=torch.zeros(9)), "Expected tensor 'mean' in"),
        "someone/nan": (changed(whole, mean=torch.full((8,), float("nan"))), "to be finite, but it holds NaN"),
        "someone/cut": (whole | {"model.safetensors": whole["model.safetensors"][:-9]}, "is corrupt:"),
        "someone/newer": (whole | {"config.json": newer}, "to be of format 1, but got 2"),
        "someone/model": (whole | {"config.json": b'{"model_type": "llama"}'}, "to be of format 1, but got None"),
        "some one/space": ({}, "there is no folder 'some one/space' and it is no id"),
    }
    hub = FakeHub(
        models={name: {"main": held} for name, (held, _) in troubles.items() if held}, gated=("someone/gated",)
    )
    wanted = [(name, {"revision": "v9"} if name.endswith("v9") else {}) for name in troubles]
    found = load_from(hub.url, tmp_path / "home", wanted)
    hub.close()
    for said, (_, expected) in zip(found, troubles.values(), strict=True):
        assert expected in said and "\n" not in said


@pytest.mark.parametrize("offline", [False, True])
def test_a_probe_that_is_in_no_cache_is_said_at_once_without_the_hub(offline, tmp_path):
    wanted = [("someone/p-ik", {}), ("someone/p-ik", {"endpoint": "http://127.0.0.1:10"})]
    found = load_from(NOWHERE, tmp_path, wanted, **({"HF_HUB_OFFLINE": "1"} if offline else {}))
    for said, url in zip(found, (NOWHERE, "http://127.0.0.1:10"), strict=True):
        assert said.startswith(
            "Expected someone/p-ik in the Hub's cache (HF_HOME), but it is not there and offline"
            if offline
            else f"Expected to reach {url} for someone/p-ik"
        )


@pytest.fixture
def pushed(monkeypatch):
    """A Hub that takes what it is given: the files by the repository's whole id, and the options."""
    taken = {}

    def create(self, repo_id, **options):
        return RepoUrl(f"{self.endpoint}/{repo_id if '/' in repo_id else 'someone/' + repo_id}", endpoint=self.endpoint)

    def upload(self, repo_id, folder_path, **options):
        taken[repo_id] = {path.name: path.read_text("latin-1") for path in Path(folder_path).iterdir()}, options
        return f"{self.endpoint}/{repo_id}/commit/1"

    monkeypatch.setattr(HfApi, "create_repo", create)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    return taken


@pytest.mark.parametrize("repo_id", ["someone/p-ik", "p-ik", None])
def test_saving_pushes_where_it_is_asked_to(pushed, tmp_path, repo_id):
    given = {} if repo_id is None else {"repo_id": repo_id}
    folder = probe().save_pretrained(tmp_path / "p-ik", push_to_hub=True, branch="v1", **given)
    (where, (held, options)), *_ = pushed.items()
    assert (where, options["revision"]) == ("someone/p-ik", "v1")
    assert sorted(held) == sorted(path.name for path in folder.iterdir())
    assert 'Probe.from_pretrained("someone/p-ik")' in held["README.md"]
    assert 'Probe.from_pretrained(".")' in (folder / "README.md").read_text()


def test_options_of_a_push_that_is_not_asked_for_are_refused(pushed, tmp_path):
    with pytest.raises(ProbeError, match="Expected branch, repo_id with push_to_hub=True"):
        probe().save_pretrained(tmp_path / "p-ik", repo_id="someone/p-ik", branch="v1")
    assert not pushed and not (tmp_path / "p-ik").exists()


class Refusing(BaseHTTPRequestHandler):
    """A Hub that answers everything with the status that the repository's owner is named after."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(int(asked["organization"]))

    def do_GET(self):
        self.answer(404)

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b'{"error": "says the\\nHub"}')

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def refusing():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("repo_id", "said"),
    [
        ("401/p-ik", "Expected the right to write to 401/p-ik at http://127.0.0.1:.*: `hf auth login`"),
        ("403/p-ik", "Expected the right to write to 403/p-ik at http://127.0.0.1:.*: `hf auth login`"),
        ("400/p-ik", "Expected to push to 400/p-ik at http://127.0.0.1:.* says the Hub"),
        ("some one/p-ik", "Expected a Hub id such as someone/some-probe, but got 'some one/p-ik'"),
        ("nobody/p-ik", "Expected to reach NOWHERE to push to nobody/p-ik, but "),
    ],
)
def test_a_push_that_fails_is_one_line_and_leaves_the_card_as_it_was(monkeypatch, refusing, tmp_path, repo_id, said):
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE if repo_id.startswith("nobody") else refusing)
    made = probe()
    with pytest.raises(ProbeError, match=f"^{said.replace('NOWHERE', NOWHERE)}") as raised:
        made.save_pretrained(tmp_path / "before", push_to_hub=True, repo_id=repo_id)
    assert "\n" not in str(raised.value)
    for folder in (tmp_path / "before", made.save_pretrained(tmp_path / "after")):
        assert 'Probe.from_pretrained(".")' in (folder / "README.md").read_text()
