"""What a repository on the Hugging Face Hub is asked for first, and what its answer means to somebody who waits for it.

One file is asked for once, so that a machine without a network, or without access, hears so in seconds: the libraries
that then fetch the rest try again and again. Fetching is theirs.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx

from probes.errors import ProbeError

LOG_IN = "`hf auth login` or put a token (https://huggingface.co/settings/tokens) in HF_TOKEN"
CACHE = "the Hub's cache (HF_HOME)"


class Located(NamedTuple):
    """A commit whose files are to be had.

    Attributes:
        commit: Its hash.
        local_files_only: Whether only those that lie in the cache are.
    """

    commit: str
    local_files_only: bool


def locate(
    repo: str,
    revision: str | None = None,
    file: str = "config.json",
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    endpoint: str | None = None,
) -> Located:
    """The commit that a model's repository is at, by one of its files, which is in the cache then.

    Where the Hub cannot be asked or denies access, what the cache has of that revision will do. Waits for
    HF_HUB_ETAG_TIMEOUT seconds (10).

    Args:
        repo: ``owner/name``.
        revision: Branch, tag or commit; by default the main branch.
        file: One that has to be there.
        token: As in `huggingface_hub.hf_hub_download`.
        cache_dir: As there.
        endpoint: As there.

    Raises:
        ProbeError: If the Hub has no such repository, revision or file, or it is neither to be had nor in the cache.
    """
    denied: Exception | None = None
    try:
        url = hf_hub_url(repo, file, revision=revision, endpoint=endpoint)
        if get_hf_file_metadata(url, token=token, endpoint=endpoint).commit_hash is None:
            raise FileMetadataError("the answer is not the Hub's: see HF_ENDPOINT, or a proxy's settings")
    except HFValidationError as error:
        raise ProbeError(f"Expected a folder or a Hub id, but there is no folder {repo!r} and it is no id") from error
    except (RemoteEntryNotFoundError, RevisionNotFoundError) as error:
        raise ProbeError(refusal(error, repo, revision, file, endpoint=endpoint)) from error
    except (httpx.HTTPError, OSError) as error:
        denied = error
    try:
        path = hf_hub_download(
            repo,
            file,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            endpoint=endpoint,
            local_files_only=denied is not None,
        )
    except (httpx.HTTPError, OSError) as error:
        raise ProbeError(refusal(denied or error, repo, revision, file, endpoint=endpoint)) from error
    # snapshots/COMMIT/FILE, where a file may lie deeper
    return Located(Path(str(path)).parents[len(PurePosixPath(file).parts) - 1].name, denied is not None)


def refusal(
    error: Exception,
    repo: str,
    revision: str | None = None,
    file: str = "",
    kind: Literal["model", "dataset"] = "model",
    purpose: str = "",
    endpoint: str | None = None,
) -> str:
    """Why the Hub did not give something and what to do about it, in a line.

    Args:
        error: What `huggingface_hub` raised.
        repo: What was asked for.
        revision: Which of it.
        file: Which one there.
        kind: Of the repository.
        purpose: What it is for, where it has another name to the reader.
        endpoint: Of another Hub than the default one.
    """
    whole, endpoint = f"{purpose} ({repo})" if purpose else repo, endpoint or constants.ENDPOINT
    if isinstance(error, GatedRepoError):
        page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repo}"
        return f"Expected access to {whole}, but it is gated: ask for it at {page}, then {LOG_IN}"
    if isinstance(error, RevisionNotFoundError):
        what = "commit" if re.fullmatch("[0-9a-f]{40}", revision or "") else "revision"
        return f"Expected {what} {revision} in {repo}, but the Hub has none such"
    if isinstance(error, RepositoryNotFoundError):
        folder = f"a folder {repo!r}, or " if kind == "model" else ""
        return f"Expected {folder}{repo} at {endpoint}, but it is not there, or it is private: {LOG_IN}"
    if isinstance(error, RemoteEntryNotFoundError):
        return f"Expected {file} in {repo}, but the Hub has no such file there"
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
        return f"Expected access to {whole}, but the Hub does not take the token ({reason}): {LOG_IN}"
    if isinstance(error, OfflineModeIsEnabled):
        return f"Expected {whole} in {CACHE}, but it is not there and offline mode is on; load it once without it"
    if isinstance(error, LocalEntryNotFoundError):
        return f"Expected {whole} in {CACHE}, but not all of it is there, and the Hub is not asked or out of reach"
    if isinstance(error, httpx.TransportError):
        return f"Expected to reach {endpoint} for {whole}, but {reason}; what was loaded once needs no network"
    return f"Expected to load {whole} from {endpoint}, but {reason}"


def push_refusal(error: Exception, repo: str) -> str:
    """Why the Hub did not take something and what to do about it, in a line; see `refusal`."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, HFValidationError):
        return f"Expected a Hub id such as someone/some-probe, but got {repo!r}"
    if isinstance(error, OfflineModeIsEnabled):
        return f"Expected to push to {repo}, but offline mode is on (HF_HUB_OFFLINE)"
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
        return f"Expected the right to write to {repo} at {constants.ENDPOINT}, but the Hub says {reason!r}: {LOG_IN}"
    if isinstance(error, httpx.TransportError):
        return f"Expected to reach {constants.ENDPOINT} to push to {repo}, but {reason}"
    return f"Expected to push to {repo} at {constants.ENDPOINT}, but {reason}"
