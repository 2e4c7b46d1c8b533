"""Embed tokens: what a page on another site may do here for a few minutes, without being told a key.

The site's own server, which has a key, asks for a token and hands it to its page; the page sends it where a key would be. A token
is `kqv1.PAYLOAD.SIGNATURE`: what it grants, in the open, and an HMAC-SHA256 of that by a secret that all replicas share. So any of
them reads it, and none keeps a list. It can't be taken back; it ends soon.
"""

import hmac
import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Literal, get_args

import orjson
from starlette.datastructures import Headers
from starlette.types import Scope

from kqv.errors import InputError
from service.errors import ExpiredTokenError, ForbiddenError, NotOfferedError
from service.settings import Settings

Route = Literal["analyze", "attend", "generate", "tokenize", "embeddings", "models"]
POSTED = {f"/v1/{route}": route for route in get_args(Route) if route != "models"}
VERSION = "kqv1"
SECRET = re.compile(r"[!-+\--~]{32,512}")
"""Printable, without commas, and as long as the hash that it keys."""


@dataclass(frozen=True)
class Grant:
    """What a token lets its bearer do."""

    key: str
    """Name of the key that it was asked for with."""
    origins: tuple[str, ...]
    """The pages that may use it, beside those of the service itself."""
    routes: tuple[Route, ...]
    models: tuple[str, ...] | None
    """None for all."""
    expires_at: int
    """Seconds since 1970."""

    def check(self, scope: Scope) -> None:
        """Raise `ForbiddenError` for a request that it isn't for."""
        if route_of(scope) not in self.routes:
            raise ForbiddenError(f"this embed token is for {', '.join(self.routes)} alone; send a key, or ask for another token")
        headers = Headers(scope=scope)
        for origin in headers.getlist("origin"):  # browsers send one wherever another site could gain by the answer
            if origin not in self.origins and origin.partition("://")[2] != headers.get("host"):
                raise ForbiddenError("this embed token is for pages of other origins than this one")


def route_of(scope: Scope) -> str | None:
    """The route of a request, as grants call it; None where no token may go."""
    method, path = scope["method"], scope["path"]
    if method == "GET" and (path == "/v1/models" or path.startswith("/v1/models/")):
        return "models"
    return POSTED.get(path) if method == "POST" else None


class EmbedTokens:
    """Makes tokens by the first of the settings' secrets, and reads those of any. Raises `InputError` for a secret that is none."""

    def __init__(self, settings: Settings) -> None:
        given = settings.embed_secret.get_secret_value().split(",") if settings.embed_secret else []
        secrets = [each.strip() for each in given]
        for number, secret in enumerate(secrets, start=1):
            if not SECRET.fullmatch(secret):
                raise InputError(
                    f"entry {number} of KQV_EMBED_SECRET is no secret of 32 characters or more, as of openssl rand -hex 32"
                )
        self._secrets = [secret.encode() for secret in secrets]

    def make(self, grant: Grant) -> str:
        """The token of a grant. Raises `NotOfferedError` without a secret."""
        if not self._secrets:
            raise NotOfferedError("this server makes no embed tokens: whoever runs it has to set KQV_EMBED_SECRET")
        signed = f"{VERSION}.{to_text(orjson.dumps(asdict(grant)))}"
        return f"{signed}.{to_text(sign(self._secrets[0], signed))}"

    def read(self, token: str) -> Grant | None:
        """What a token grants; None for what is none of ours. Raises `ExpiredTokenError`."""
        signed, _, signature = token.rpartition(".")
        if not signed.startswith(f"{VERSION}."):
            return None
        given = from_text(signature)
        if not any(hmac.compare_digest(sign(secret, signed), given) for secret in self._secrets):
            return None
        fields = orjson.loads(from_text(signed.partition(".")[2]))
        lists = {name: value if value is None else tuple(value) for name, value in fields.items() if name in LISTS}
        grant = Grant(**{**fields, **lists})
        if time.time() >= grant.expires_at:
            raise ExpiredTokenError("this embed token has expired; ask for a new one")
        return grant


LISTS = ("origins", "routes", "models")


def sign(secret: bytes, text: str) -> bytes:
    return hmac.digest(secret, text.encode(), sha256)


def to_text(data: bytes) -> str:
    """Base64 for URLs, without its padding."""
    return urlsafe_b64encode(data).decode().rstrip("=")


def from_text(text: str) -> bytes:
    """The bytes again; none for what is no such text."""
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return b""
