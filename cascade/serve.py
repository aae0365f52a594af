"""Serves a cascade to OpenAI clients: `python -m cascade.serve`.

Without arguments: the miniature chain on http://127.0.0.1:8000/v1, under the model name `cascade`, and a page for
people at http://127.0.0.1:8000. What the chain is made of is a YAML file, `--config`.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from cascade.commands import verb_parser
from cascade.errors import CascadeError, one_line_errors
from cascade.serving.listening import bind
from cascade.serving.origins import Origins
from probes.errors import ProbeError

KEYS_VARIABLE = "CASCADE_API_KEYS"


def serve(
    config: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    allowed_hosts: str = "",
    api_keys: Path | None = None,
    queue: int = 1024,
    batch_milliseconds: float = 4.0,
    body_limit: int = 2**20,
    bytes_per_token: int = 32,
    state: Path | None = None,
    log_text: bool = False,
    mode: Literal["answer", "shadow"] = "answer",
    journal: Path = Path("runs/journal"),
) -> None:
    """Serves until SIGTERM or SIGINT, and then finishes what it has accepted.

    Args:
        config: YAML of the cascade's models and policy; by default the miniature Llamas.
        host: Address to listen on; 0.0.0.0 is every one of this machine's.
        port: Port to listen on; 0 takes any that is free.
        allowed_hosts: Further names that the server is asked by, separated by commas, such as a proxy's. Requests to
            other names than these, the loopback ones and `host` are refused; with 0.0.0.0 any address in numbers will
            do, and this machine's name.
        api_keys: File of the keys that clients may use, one a line; by default those of the environment variable
            CASCADE_API_KEYS, separated by commas, and without it anybody may ask.
        queue: Questions under way at the most; further requests are turned away with 429.
        batch_milliseconds: How long a question waits for others to make a batch with.
        body_limit: Bytes of a request's body at the most.
        bytes_per_token: Bytes of a prompt at the most for each token of a model's context. A longer prompt is refused
            before it is tokenised. Tokens of English text have 4 to 5 bytes.
        state: File that the watch over promise and signals is kept in, so that it goes on after a restart; by default
            it begins anew.
        log_text: Write questions and answers to the log, and to the journal.
        mode: In shadow the last model answers every question, and all others are asked beside it; a journal says what
            they said and what the cascade would have done.
        journal: Folder of the journal, from which `cascade.simulate --scores` chooses thresholds.
    """
    for name, value, least in (
        ("queue", queue, 1),
        ("body_limit", body_limit, 1),
        ("bytes_per_token", bytes_per_token, 1),
    ):
        if value < least:
            raise CascadeError(f"Expected `{name}` to be at least {least}, but got {value}")
    if not 0 <= batch_milliseconds <= 1000:
        raise CascadeError(f"Expected `batch_milliseconds` to be in [0, 1000], but got {batch_milliseconds}")
    keys = read_keys(api_keys)
    origins = Origins(host, [name.strip() for name in allowed_hosts.split(",") if name.strip()])
    listener = bind(host, port)
    # Here and not above: the help, an error in the arguments and a port that is taken need no torch.
    from transformers.utils import logging

    from cascade.runtime.build import build_cascade
    from cascade.serving.logs import Log
    from cascade.serving.server import Server
    from cascade.serving.service import Limits, Service
    from cascade.serving.shadow import Journal

    logging.set_verbosity_error()  # stderr is for lines of JSON
    cascade = build_cascade(config)
    if not cascade.keep_loaded:
        raise CascadeError("Expected `keep_loaded` to be true for a server, which holds every model, but got false")
    kept = Journal(journal, log_text) if mode == "shadow" else None
    limits = Limits(queue, batch_milliseconds / 1000, body_limit, bytes_per_token)
    server = Server(Service(cascade, limits, keys, Log(text=log_text), origins, kept, state), listener)
    chain = " → ".join(cascade.names)

    def say(url: str) -> None:
        if kept is not None:
            print(
                f"Shadow mode: {cascade.names[cascade.policy.places[-1]]} answers; the journal is {journal}", flush=True
            )
        print(f"Serving {chain} as {cascade.name!r} on {url}/v1 (page: {url})", flush=True)

    asyncio.run(server.run_until_finished(say))


def read_keys(path: Path | None) -> list[str]:
    """API keys from a file, one a line, or else from the environment.

    Raises:
        CascadeError: If there is a file with no key in it.
    """
    if path is None:
        return [key.strip() for key in os.environ.get(KEYS_VARIABLE, "").split(",") if key.strip()]
    keys = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if not keys:
        raise CascadeError(f"Expected API keys in {path}, one a line, but there is none")
    return keys


def build_parser() -> ArgumentParser:
    """The command line: the signature of `serve`."""
    parser = verb_parser("serve", __doc__)
    parser.add_function_arguments(serve)
    return parser


@one_line_errors(ProbeError)
def main(args: list[str] | None = None) -> None:
    """The entry point."""
    serve(**build_parser().parse_args(args).as_dict())


if __name__ == "__main__":
    main()
