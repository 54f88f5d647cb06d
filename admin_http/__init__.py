"""Health and metrics over HTTP: `GET /healthz`, `/readyz` and `/metrics`, loopback by default.

The three pages need no token, and so name no workspace, no person and no path. This folder is the only one that
knows aiohttp; what it shows comes from a `StatusSource`, never from tables.
"""

from admin_http.server import AdminServer
from admin_http.status import StatusSource

__all__ = ["AdminServer", "StatusSource"]
