"""Health, metrics and the API over HTTP, loopback by default.

`/healthz`, `/readyz` and `/metrics` need no token, and so name no workspace, no person and no path; all else needs one
(api_gate.py). This folder is the only one that knows aiohttp's server; what it shows comes from a `StatusSource` and an
`ApiSource`, never from tables.
"""

from admin_http.api_source import ApiSource
from admin_http.server import AdminServer
from admin_http.status import StatusSource

__all__ = ["AdminServer", "ApiSource", "StatusSource"]
