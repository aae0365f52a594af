"""A vLLM server as an endpoint says of the option letters what the model here says."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

pytest.importorskip("vllm", reason="vLLM is not installed; `make test-vllm` installs it and runs this")

from cascade.engines.base import prompt_of
from cascade.engines.settings import DecoderConfig, EndpointConfig
from cascade.miniature.families import ASSETS
from cascade.tasks.load import load_task

START_SECONDS = 300
PROMPTS = [prompt_of(question) for question in load_task("mini-mmlu").questions[:24]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """A miniature with a chat template."""
    place = tmp_path_factory.mktemp("model")
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "mini-llama-large")
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    tokenizer.save_pretrained(place)
    AutoModelForCausalLM.from_pretrained(ASSETS / "mini-llama-large").save_pretrained(place)
    return str(place)


@pytest.fixture(scope="module")
def address(folder) -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        folder,
        "--served-model-name",
        "mini",
    ]
    command += [
        "--dtype",
        "float32",
        "--enforce-eager",
        "--max-num-seqs",
        "16",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    quiet = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    server = subprocess.Popen(command, env=os.environ | quiet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + START_SECONDS
        while True:
            assert server.poll() is None and time.monotonic() < until, "the server did not start"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


@pytest.mark.parametrize(("kind", "style"), [("completions", "raw"), ("chat", "chat")])
def test_every_letters_probability_is_that_of_the_model_here(kind, style, address, folder, tmp_path):
    ours = DecoderConfig(folder, prompt_style=style).build()
    tokens = {token for prompt in PROMPTS for token in ours.first_tokens(prompt)}
    there = EndpointConfig(
        "mini",
        address,
        kind=kind,
        cache=tmp_path / "requests.sqlite",
        continues=True,
        limit_field="max_tokens",
        options={"logprob_token_ids": sorted(tokens)},
    ).build()
    expected, replies = ours.answer(PROMPTS), there.answer(PROMPTS)
    there.release()
    for reply, here in zip(replies, expected, strict=True):
        assert (reply.text, reply.prompt_tokens) == (here.text, here.prompt_tokens)
        assert reply.p_t == pytest.approx(here.p_t, abs=1e-5)
        assert reply.option_mass == pytest.approx(here.option_mass, abs=1e-5)
    assert np.std([reply.p_t for reply in replies]) > 1e-4
