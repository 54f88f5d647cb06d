"""A GitHub on loopback, in the shapes of the real one: device flow, rotating tokens, REST pages, limits, git by HTTP.

`github.com` and `api.github.com` are one address here, as on an Enterprise server: pages under `/`, the API under
`/api/v3`. Run it on the test's own loop (`FakeGithub.running()`), or beside tests that have none, for programs of their
own (`FakeGithub.in_thread()`). What it shall do next is set on its fields; what it was asked is in `asked`.
Shapes: https://docs.github.com/en/apps/oauth-apps/building-oauth-apps/authorizing-oauth-apps and .../rest
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.support.fake_git_http import serve_git

CLIENT_ID = "Iv1.0123456789abcdef"
SCOPES = "read:user, repo, user:email"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
DOCUMENTATION = "https://docs.github.com/rest"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class FakeUser:
    login: str = "octocat"
    id: int = 583231
    name: str | None = "The Octocat"
    email: str | None = None
    emails: list[dict[str, Any]] = field(
        default_factory=lambda: [
            {"email": "octocat@users.noreply.github.com", "verified": True, "primary": False, "visibility": None},
            {"email": "octocat@github.example", "verified": True, "primary": True, "visibility": "private"},
        ]
    )


@dataclass
class FakeToken:
    secret: str
    scopes: str = SCOPES
    expires_at: float | None = None  # by time.time()
    is_revoked: bool = False
    tells_expiry: bool = False  # in a header, as for personal tokens that expire

    @property
    def is_valid(self) -> bool:
        return not self.is_revoked and (self.expires_at is None or self.expires_at > time.time())


@dataclass
class FakeDevice:
    user_code: str
    interval: int
    expires_at: float
    scope: str
    is_approved: bool = False
    is_denied: bool = False
    asked_at: float = 0.0


@dataclass
class FakeRepository:
    id: int
    full_name: str
    default_branch: str = "main"
    private: bool = False
    description: str | None = None
    archived: bool = False
    fork: bool = False
    pushed_at: str = "2026-01-02T03:04:05Z"


@dataclass
class FakeGithub:
    user: FakeUser = field(default_factory=FakeUser)
    client_id: str = CLIENT_ID
    repositories: list[FakeRepository] = field(default_factory=list)
    renamed: dict[str, int] = field(default_factory=dict)  # an old full name, lower case → the id
    keys: dict[str, list[str]] = field(default_factory=dict)  # of users, lower case: `ssh-ed25519 AAAA…` lines
    git_root: Path | None = None  # bare repositories: git_root/owner/repo.git
    # ---- what it does
    is_github_app: bool = False  # tokens expire and are renewed
    token_seconds: int = 28800
    device_interval: int = 5
    device_seconds: int = 900
    is_device_flow_enabled: bool = True
    is_impatient: bool = True  # slow_down for whoever asks before the interval is over
    can_revoke: bool = True  # POST /credentials/revoke is there
    is_down: bool = False  # answers 502 to everything
    is_silent: bool = False  # takes the question and never answers
    drops_refresh_answers: int = 0  # renews, and then the line breaks
    rate_limit: tuple[int, dict[str, str]] | None = None  # (status, headers) for every API call
    body_instead: bytes | None = None  # what every answer says instead
    # ---- what it knows
    tokens: dict[str, FakeToken] = field(default_factory=dict)
    refresh_tokens: dict[str, str] = field(default_factory=dict)  # → the access token it renews; used ones are gone
    devices: dict[str, FakeDevice] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)  # "GET /api/v3/user"
    authorizations: list[str | None] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    @property
    def web_url(self) -> str:
        return self.url

    @property
    def api_url(self) -> str:
        return f"{self.url}/api/v3"

    @property
    def settings(self) -> dict[str, str]:
        """For InstalledGateway(**github.settings)."""
        return {"github_web_url": self.web_url, "github_api_url": self.api_url, "github_client_id": self.client_id}

    # ------------------------------------------------------------------------------------------- its own people

    def new_token(self, *, prefix: str = "ghp_", scopes: str = SCOPES, **changes: Any) -> str:
        token = FakeToken(prefix + secrets.token_hex(18), scopes, **changes)
        self.tokens[token.secret] = token
        return token.secret

    def approve(self, user_code: str | None = None) -> None:
        """The person enters the code and agrees; None: the one code there is."""
        self._device(user_code).is_approved = True

    def deny(self, user_code: str | None = None) -> None:
        self._device(user_code).is_denied = True

    def expire_devices(self) -> None:
        for device in self.devices.values():
            device.expires_at = 0

    def revoke(self, secret: str) -> None:
        """As its owner does in the settings: the token and what renews it."""
        if secret in self.tokens:
            self.tokens[secret].is_revoked = True
        self.refresh_tokens = {key: access for key, access in self.refresh_tokens.items() if access != secret}

    def count(self, question: str) -> int:
        return self.asked.count(question)

    def token_of(self, request: web.Request) -> FakeToken | None:
        """The valid token in a request: Bearer, token or Basic (git sends the last)."""
        kind, _, value = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "basic":
            value = base64.b64decode(value).decode().partition(":")[2]
        token = self.tokens.get(value)
        return token if token is not None and token.is_valid else None

    def repository(self, full_name: str) -> FakeRepository | None:
        wanted = full_name.lower()
        return next((each for each in self.repositories if each.full_name.lower() == wanted), None)

    def _device(self, user_code: str | None) -> FakeDevice:
        return next(each for each in self.devices.values() if user_code in (None, each.user_code))

    # ------------------------------------------------------------------------------------------------- running

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, **fields: Any) -> AsyncIterator[FakeGithub]:
        github = cls(**fields)
        runner = web.AppRunner(github._app(), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        github.url = f"http://{host}:{port}"
        try:
            yield github
        finally:
            await runner.cleanup()

    @classmethod
    @contextlib.contextmanager
    def in_thread(cls, **fields: Any) -> Iterator[FakeGithub]:
        """Its fields may be changed from the test's thread: it only reads them."""
        ready, done = threading.Event(), threading.Event()
        made: list[FakeGithub] = []

        async def serve() -> None:
            async with cls.running(**fields) as github:
                made.append(github)
                ready.set()
                await asyncio.to_thread(done.wait)

        thread = threading.Thread(target=lambda: asyncio.run(serve()), name="fake-github")
        thread.start()
        try:
            assert ready.wait(10), "the fake GitHub did not start"
            yield made[0]
        finally:
            done.set()
            thread.join(10)

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._middleware()], client_max_size=64 * 1024 * 1024)
        app.add_routes(
            [
                web.post("/login/device/code", self._device_code),
                web.post("/login/oauth/access_token", self._access_token),
                web.get("/api/v3/user", self._with_token(self._user)),
                web.get("/api/v3/user/emails", self._with_token(self._emails)),
                web.get("/api/v3/user/repos", self._with_token(self._repos)),
                web.get("/api/v3/repos/{owner}/{name}", self._repo),
                web.get("/api/v3/repositories/{id}", self._repo_by_id),
                web.get("/api/v3/users/{name}/keys", self._keys),
                web.post("/api/v3/credentials/revoke", self._revoke),
                web.route("*", "/{owner}/{name}/{rest:info/refs|git-upload-pack|git-receive-pack}", self._git),
            ]
        )
        return app

    def _middleware(self) -> Any:
        @web.middleware
        async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
            self.asked.append(f"{request.method} {request.path}")
            self.authorizations.append(request.headers.get("Authorization"))
            self.headers.append(dict(request.headers))
            if self.is_silent:
                await asyncio.sleep(3600)
            if self.is_down:
                return web.Response(status=502, text="<html>Unicorn!</html>", content_type="text/html")
            if self.rate_limit is not None and request.path.startswith("/api/"):
                status, headers = self.rate_limit
                return _failure(status, "API rate limit exceeded for user ID 583231.", headers)
            if self.body_instead is not None:
                return web.Response(body=self.body_instead, content_type="application/json")
            try:
                return await handler(request)
            except web.HTTPNotFound:
                return _failure(404, "Not Found")

        return middleware

    def _with_token(self, handler: Callable[[web.Request, FakeToken], web.Response]) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            token = self.token_of(request)
            if token is None:
                bad = "Authorization" in request.headers
                return _failure(401, "Bad credentials" if bad else "Requires authentication")
            response = handler(request, token)
            response.headers["X-RateLimit-Remaining"] = "4999"
            if token.secret.startswith(("ghp_", "gho_")):
                response.headers["X-OAuth-Scopes"] = token.scopes
            if token.tells_expiry and token.expires_at is not None:
                moment = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(token.expires_at))
                response.headers["GitHub-Authentication-Token-Expiration"] = moment
            return response

        return handle

    # --------------------------------------------------------------------------------------- logging in (RFC 8628)

    async def _device_code(self, request: web.Request) -> web.Response:
        form = await request.post()
        if form.get("client_id") != self.client_id:
            return _failure(404, "Not Found")
        if not self.is_device_flow_enabled:
            return _oauth_error("device_flow_disabled", "Device Flow must be explicitly enabled for this App")
        code = secrets.token_hex(20)
        user_code = f"{secrets.token_hex(2)}-{secrets.token_hex(2)}".upper()
        self.devices[code] = FakeDevice(
            user_code, self.device_interval, time.time() + self.device_seconds, str(form.get("scope", ""))
        )
        return web.json_response(
            {
                "device_code": code,
                "user_code": user_code,
                "verification_uri": f"{self.url}/login/device",
                "expires_in": self.device_seconds,
                "interval": self.device_interval,
            }
        )

    async def _access_token(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        if form.get("client_id") != self.client_id:
            return _oauth_error("incorrect_client_credentials", "The client_id is not known.")
        if form.get("grant_type") == "refresh_token":
            return await self._refresh(request, str(form.get("refresh_token", "")))
        if form.get("grant_type") != DEVICE_GRANT:
            return _oauth_error("unsupported_grant_type", "The grant type is not one of ours.")
        return self._poll(str(form.get("device_code", "")))

    def _poll(self, code: str) -> web.Response:
        device = self.devices.get(code)
        if device is None:
            return _oauth_error("incorrect_device_code", "The device_code provided is not valid.")
        now, before = time.time(), device.asked_at
        device.asked_at = now
        if device.expires_at <= now:
            return _oauth_error("expired_token", "The device code has expired.")
        if device.is_denied:
            return _oauth_error("access_denied", "The authorization request was denied.")
        if self.is_impatient and now - before < device.interval - 0.05:
            device.interval += 5
            return _oauth_error("slow_down", "Too many requests.", interval=device.interval)
        if not device.is_approved:
            return _oauth_error("authorization_pending", "The authorization request is still pending.")
        del self.devices[code]
        return web.json_response(self._issue(device.scope))

    async def _refresh(self, request: web.Request, refresh_token: str) -> web.StreamResponse:
        """Single use: the old pair is void as soon as it was used."""
        access = self.refresh_tokens.pop(refresh_token, None)
        if access is None:
            return _oauth_error("bad_refresh_token", "The refresh token passed is incorrect or expired.")
        self.tokens[access].is_revoked = True
        issued = self._issue(self.tokens[access].scopes)
        if self.drops_refresh_answers:
            self.drops_refresh_answers -= 1
            assert request.transport is not None
            request.transport.abort()
        return web.json_response(issued)

    def _issue(self, scope: str) -> dict[str, object]:
        if not self.is_github_app:
            token = self.new_token(prefix="gho_", scopes=scope.replace(" ", ", "))
            return {"access_token": token, "token_type": "bearer", "scope": scope.replace(" ", ",")}
        access = self.new_token(prefix="ghu_", scopes="", expires_at=time.time() + self.token_seconds)
        refresh = "ghr_" + secrets.token_hex(36)
        self.refresh_tokens[refresh] = access
        return {
            "access_token": access,
            "expires_in": self.token_seconds,
            "refresh_token": refresh,
            "refresh_token_expires_in": 15897600,
            "token_type": "bearer",
            "scope": "",
        }

    async def _revoke(self, request: web.Request) -> web.Response:
        if not self.can_revoke:
            return _failure(404, "Not Found")
        if "Authorization" in request.headers:
            return _failure(403, "This endpoint takes no authentication.")
        for secret in (await request.json())["credentials"]:
            self.revoke(secret)
            self.revoke(self.refresh_tokens.pop(secret, ""))
        return web.Response(status=202)

    # -------------------------------------------------------------------------------------------------- the API

    def _user(self, request: web.Request, token: FakeToken) -> web.Response:
        user = self.user
        return web.json_response(
            {"login": user.login, "id": user.id, "name": user.name, "email": user.email, "type": "User"}
        )

    def _emails(self, request: web.Request, token: FakeToken) -> web.Response:
        if "user:email" not in token.scopes and "user" not in token.scopes.split(", "):
            return _failure(404, "Not Found")
        return web.json_response(self.user.emails)

    def _repos(self, request: web.Request, token: FakeToken) -> web.Response:
        return self._page(request, [self._shape(each) for each in self.repositories])

    async def _repo(self, request: web.Request) -> web.Response:
        full_name = f"{request.match_info['owner']}/{request.match_info['name']}"
        found = self.repository(full_name)
        if found is None and (moved := self.renamed.get(full_name.lower())) is not None:
            target = f"{self.api_url}/repositories/{moved}"
            body = {"message": "Moved Permanently", "url": target, "documentation_url": DOCUMENTATION}
            return web.json_response(body, status=301, headers={"Location": target})
        return self._shown(request, found)

    async def _repo_by_id(self, request: web.Request) -> web.Response:
        wanted = int(request.match_info["id"])
        return self._shown(request, next((each for each in self.repositories if each.id == wanted), None))

    def _shown(self, request: web.Request, found: FakeRepository | None) -> web.Response:
        if "Authorization" in request.headers and self.token_of(request) is None:
            return _failure(401, "Bad credentials")
        if found is None or (found.private and self.token_of(request) is None):
            return _failure(404, "Not Found")
        return web.json_response(self._shape(found))

    async def _keys(self, request: web.Request) -> web.Response:
        keys = self.keys.get(request.match_info["name"].lower())
        if keys is None:
            return _failure(404, "Not Found")
        return self._page(request, [{"id": number, "key": key} for number, key in enumerate(keys, start=1)])

    def _page(self, request: web.Request, items: list[dict[str, Any]]) -> web.Response:
        count = min(int(request.query.get("per_page", "30")), 100)
        page = int(request.query.get("page", "1"))
        headers = {}
        if page * count < len(items):
            following = request.url.with_scheme("http").update_query(page=page + 1)
            last = request.url.update_query(page=-(-len(items) // count))
            headers["Link"] = f'<{following}>; rel="next", <{last}>; rel="last"'
        return web.json_response(items[(page - 1) * count : page * count], headers=headers)

    def _shape(self, repository: FakeRepository) -> dict[str, Any]:
        owner, _, name = repository.full_name.partition("/")
        return {
            "id": repository.id,
            "name": name,
            "full_name": repository.full_name,
            "private": repository.private,
            "owner": {"login": owner, "id": 1, "type": "User"},
            "html_url": f"{self.url}/{repository.full_name}",
            "description": repository.description,
            "fork": repository.fork,
            "archived": repository.archived,
            "default_branch": repository.default_branch,
            "pushed_at": repository.pushed_at,
            "clone_url": f"{self.url}/{repository.full_name}.git",
        }

    # ------------------------------------------------------------------------------------------------------ git

    async def _git(self, request: web.Request) -> web.StreamResponse:
        """Reading a public repository needs no token; all else does."""
        full_name = f"{request.match_info['owner']}/{request.match_info['name'].removesuffix('.git')}"
        found = self.repository(full_name)
        is_push = "git-receive-pack" in (request.query.get("service"), request.match_info["rest"])
        if (found is None or found.private or is_push) and self.token_of(request) is None:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="GitHub"'})
        if found is None or self.git_root is None:
            return web.Response(status=404, text="Repository not found.")
        return await serve_git(request, self.git_root, f"{found.full_name}.git/{request.match_info['rest']}")


def _failure(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {"message": message, "documentation_url": DOCUMENTATION, "status": str(status)}
    return web.json_response(body, status=status, headers=headers)


def _oauth_error(error: str, description: str, **more: object) -> web.Response:
    """With status 200, as GitHub does."""
    uri = "https://docs.github.com/developers/apps/authorizing-oauth-apps#error-codes-for-the-device-flow"
    return web.json_response({"error": error, "error_description": description, "error_uri": uri, **more})
