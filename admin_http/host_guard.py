"""The guard against DNS rebinding: which `Host` a request to a loopback listener may name.

A web page on `evil.example` can have that name resolve to 127.0.0.1 and so read what listens there with the visitor's
browser, which believes it talks to its own origin. What it cannot do is choose the Host header, and cannot have an IP
address as its origin without serving from that address. So addresses, `localhost` and the configured names pass, and
so do clients that name no host at all (HTTP/1.0 probes; browsers always do). A listener that other machines reach has
public pages anyway, under whatever name the network gives it: no guard there.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from admin_http.answer import error_answer

_HOST = re.compile(r"(?:\[([0-9a-f:.%]+)\]|([^:\[\]/\s]*))(?::\d{1,5})?", re.IGNORECASE)


def is_own_host(host: str, *, names: Iterable[str]) -> bool:
    """Whether `host`, a Host header's value, is an address, localhost, or one of `names`."""
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = (match[1] or match[2] or "").lower().rstrip(".")
    if name in ("", "localhost") or name.endswith(".localhost"):  # RFC 6761 §6.3: never leaves this machine
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in {known.lower().rstrip(".") for known in names}
    return True


def host_guard(names: Iterable[str]) -> Middleware:
    names = tuple(names)

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if all(is_own_host(host, names=names) for host in request.headers.getall(hdrs.HOST, [])):
            return await handler(request)
        return error_answer(
            403, "this name is not known here; use the address, localhost, or a name in host_names of [http]"
        )

    return guard
