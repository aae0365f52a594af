"""From where a request may come: by its Host, its Origin, and what a browser says of the page that sends it.

A server on this machine can be reached by every web page that its user opens. A page of another site may send requests
here, and a name of its own that it lets point at this machine (DNS rebinding) would let it read the replies. A program
that is no browser may send whatever it likes, and is kept out by keys.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cascade.errors import CascadeError
from cascade.serving.errors import ApiError

if TYPE_CHECKING:
    from starlette.datastructures import Headers

_EVERY_ADDRESS = frozenset({"", "0.0.0.0", "::"})
_OF_OTHER_PAGES = frozenset({"cross-site", "same-site"})


class Origins:
    """Which names a server answers to, and whose pages may ask.

    This machine's loopback names and the address served are always among the names. A server that listens on every
    address answers to each of them by number, and to this machine's own name: a number cannot be made to point
    elsewhere. Other names are those of `allowed`.

    Args:
        address: That the server listens on.
        allowed: Further names, such as the one that a proxy in front of the server is known by. Their pages may ask.

    Raises:
        CascadeError: If one of them is no name of a host.
    """

    def __init__(self, address: str = "127.0.0.1", allowed: Sequence[str] = ()) -> None:
        self._everywhere = address in _EVERY_ADDRESS
        self._allowed = frozenset(name.lower() for name in allowed)
        self._own = {"localhost", address.lower()}
        if self._everywhere:
            self._own.add(socket.gethostname().lower())
        for name in self._allowed:
            bare = f"[{name}]" if _address(name) and ":" in name else name
            if _host(bare) != name or bare != _authority(f"http://{bare}") or _has_port(bare):
                raise CascadeError(
                    f"Expected `allowed_hosts` to be names without a scheme or a port, such as cascade.example.org, "
                    f"but got {name!r}"
                )

    def check_host(self, headers: Headers) -> None:
        """Refuses a request to another host.

        Raises:
            ApiError: 403, saying how the name can be allowed.
        """
        said = headers.get("host")
        if said is None:  # HTTP/1.0, which no browser speaks
            return
        name = _host(said)
        found = None if name is None else _address(name)
        if name is None or not (
            name in self._own
            or name in self._allowed
            or (found is not None and (found.is_loopback or self._everywhere))
        ):
            raise ApiError(
                403,
                f"Expected `Host` to be a name of this server, but got {said[:60]!r}; `--allowed_hosts` adds names",
                code="host_not_allowed",
            )

    def check_page(self, headers: Headers) -> None:
        """Refuses a request that a page of somebody else's sends.

        Raises:
            ApiError: 403.
        """
        host = headers.get("host", "").lower()
        for origin in headers.getlist("origin"):
            authority = _authority(origin)
            if authority is None or (authority != host and _host(authority) not in self._allowed):
                raise _foreign("Origin", origin)
        for site in headers.getlist("sec-fetch-site"):
            if site.strip().lower() in _OF_OTHER_PAGES:
                raise _foreign("Sec-Fetch-Site", site)


def check_json(headers: Headers) -> None:
    """Refuses a body that is not said to be JSON: a page of another site may send anything else unasked.

    Raises:
        ApiError: 415.
    """
    said = headers.get("content-type", "")
    if said.partition(";")[0].strip().lower() != "application/json":
        got = repr(said[:60]) if said else "none"
        raise ApiError(
            415, f"Expected the `Content-Type` application/json, but got {got}", code="unsupported_media_type"
        )


def _foreign(header: str, value: str) -> ApiError:
    message = f"Expected a request from this server's own page or from no page, but got `{header}: {value[:60]}`"
    return ApiError(403, message, code="origin_not_allowed")


def _authority(origin: str) -> str | None:
    """Host and port of an origin, in small letters; ``None`` where it has none."""
    try:
        parts = urlsplit(origin.strip())
    except ValueError:
        return None
    return parts.netloc.lower() if parts.scheme in ("http", "https") and parts.netloc else None


def _host(authority: str) -> str | None:
    """The host of "host:port", in small letters and without the brackets of IPv6; ``None`` where it is none."""
    try:
        parts = urlsplit(f"//{authority}")
        parts.port  # noqa: B018 - raises where it is none
    except ValueError:
        return None
    return parts.hostname if parts.netloc == authority and "@" not in authority else None


def _has_port(authority: str) -> bool:
    return urlsplit(f"//{authority}").port is not None


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
