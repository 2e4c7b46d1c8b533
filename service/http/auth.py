"""Who may ask: API keys, of which the service knows only digests, and the middleware that asks for one.

Keys come from `KQV_API_KEYS` and from the file `KQV_API_KEYS_FILE`, as `NAME:KEY` or `NAME:sha256:DIGEST`. The name is for logs and
limits; two keys may share one, so that clients can go from an old key to a new one. A bare SHA-256 is enough here, unlike for
passwords: keys are long and random, so that nobody finds one by trying.
"""

import hmac
import logging
import os
import re
import secrets
import time
from collections import Counter
from collections.abc import Container
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from kqv.errors import InputError
from service.errors import KeyBusyError, UnauthorizedError
from service.http.embed_tokens import EmbedTokens
from service.http.middleware import exchange_of, header_of
from service.settings import Settings

logger = logging.getLogger(__name__)

ENTRY = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,63}):(?:sha256:(?P<digest>[0-9a-f]{64})|(?P<key>[A-Za-z0-9._~+/=-]{16,512}))"
)
CHECK_S = 1.0
"""How often the file is looked at."""


class Key(NamedTuple):
    """A key that is let in."""

    name: str
    digest: bytes


def digest_of(key: str) -> bytes:
    """All that is kept of a key."""
    return sha256(key.encode()).digest()


def new_key(name: str) -> tuple[str, str]:
    """A key that nobody had before, and its entry for the file. Raises `InputError` for what can't be a key's name."""
    key = secrets.token_urlsafe(32)
    entry = f"{name}:sha256:{digest_of(key).hex()}"
    if not ENTRY.fullmatch(entry):
        raise InputError(f"a key's name is of letters, digits and ._- and begins with a letter or a digit; not {name!r}")
    return key, entry


def read_keys(text: str, source: str) -> tuple[Key, ...]:
    """The keys of a list that commas or line breaks separate; `#` begins a comment.

    Raises `InputError`, which tells the place of a wrong entry and nothing of what it holds.
    """
    lines = (line.partition("#")[0] for line in text.splitlines())
    entries = [entry.strip() for line in lines for entry in line.split(",") if entry.strip()]
    return tuple(read_key(entry, f"entry {number} of {source}") for number, entry in enumerate(entries, start=1))


def read_key(entry: str, place: str) -> Key:
    """One of them."""
    found = ENTRY.fullmatch(entry)
    if found is None:
        raise InputError(f"{place} is no NAME:KEY with a key of 16 characters or more, and no NAME:sha256:DIGEST")
    return Key(found["name"], bytes.fromhex(found["digest"]) if found["digest"] else digest_of(found["key"]))


class Keys:
    """The keys of the settings. Raises `InputError` where they can't be read at first; later the former ones stay."""

    def __init__(self, settings: Settings) -> None:
        given = settings.api_keys.get_secret_value() if settings.api_keys else ""
        self._given = read_keys(given, "KQV_API_KEYS")
        self._file = settings.api_keys_file
        self._filed: tuple[Key, ...] = ()
        self._seen: object = None
        self._look_at = time.monotonic() + CHECK_S
        if self._file is not None:
            try:
                self._seen, self._filed = state_of(self._file), read_file(self._file)
            except OSError as error:
                raise InputError(f"the file of KQV_API_KEYS_FILE can't be read: {error.strerror}") from error
        self.required = settings.api_keys is not None or self._file is not None
        """Without any setting of keys everyone is let in; with an empty one, nobody."""

    def name_of(self, key: str) -> str | None:
        """The name of a key that fits. It takes as long for any other: all digests are compared, each in constant time."""
        self._look()
        digest, name = digest_of(key), None
        for known in (*self._given, *self._filed):
            if hmac.compare_digest(known.digest, digest):
                name = known.name
        return name

    def _look(self) -> None:
        """Read the file again if it has changed, at most once in a while."""
        if self._file is None or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + CHECK_S
        try:
            state = state_of(self._file)
            if state == self._seen:
                return
            self._seen = state
            self._filed = read_file(self._file)
        except (OSError, UnicodeDecodeError, InputError) as error:
            reason = str(error) if isinstance(error, InputError) else type(error).__name__
            logger.error("the API keys stay as they were, for their file can't be read: %s", reason)
        else:
            logger.info("read the API keys again: %d in the file", len(self._filed))


def read_file(file: Path) -> tuple[Key, ...]:
    """The keys of a file."""
    return read_keys(file.read_text(encoding="utf-8"), file.name)


def state_of(file: Path) -> tuple[int, ...]:
    """What changes when the file does, be it written or replaced."""
    state = os.stat(file)
    return state.st_mtime_ns, state.st_size, state.st_ino


class Admit:
    """Middleware: whoever has no key sees the public paths alone, whatever else there may be, or not be.

    A path is public if it is one of the list, decoded as the router will see it: no prefix, slash or encoding makes another one so.
    """

    def __init__(self, app: ASGIApp, keys: Keys, tokens: EmbedTokens, settings: Settings, assets: frozenset[str]) -> None:
        self.app = app
        self.keys = keys
        self.tokens = tokens
        self.public = frozenset(settings.public_paths) | assets
        self.limit = settings.max_key_requests
        self.under_way: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if self.is_public(scope):
            await self.app(scope, receive, send)
            return
        name = exchange_of(scope).key = authenticate(scope, self.keys, self.tokens)
        await self._serve(name, scope, receive, send)

    def is_public(self, scope: Scope) -> bool:
        """Whether this may be seen without a key."""
        return scope["method"] in ("GET", "HEAD") and scope["path"] in self.public

    async def _serve(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Let in, unless the key has its share already. Raises `KeyBusyError`."""
        if self.under_way[name] >= self.limit:
            raise KeyBusyError(f"{self.limit} requests of this key are under way already", retry_after_s=1)
        self.under_way[name] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.under_way[name] -= 1


def authenticate(scope: Scope, keys: Keys, tokens: EmbedTokens) -> str:
    """What a request's caller is called. Raises `UnauthorizedError`, or `ForbiddenError` for an embed token that isn't for this."""
    key = presented(header_of(scope, b"authorization"))
    if key is None:
        raise UnauthorizedError("this needs a key; send it as Authorization: Bearer KEY")
    name = keys.name_of(key) or name_of_token(key, scope, tokens)
    if name is None:
        raise UnauthorizedError("the key is not known here, or not any more")
    return name


def name_of_token(token: str, scope: Scope, tokens: EmbedTokens) -> str | None:
    """What an embed token's requests count as: not as those of the key that it was made with, whose share they'd use up."""
    grant = tokens.read(token)
    if grant is None:
        return None
    grant.check(scope)
    scope["state"]["grant"] = grant
    return f"embed:{grant.key}"


def presented(authorization: str | None) -> str | None:
    """The key of a request; none where there are two, of which a proxy may have looked at the other."""
    scheme, _, key = (authorization or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


SCHEME = {"type": "http", "scheme": "bearer", "description": "An API key."}
REFUSALS = {"401": "Unauthorized", "403": "Forbidden", "429": "Too many requests"}


def describe_keys(document: dict[str, Any], public: Container[str]) -> None:
    """Say in an OpenAPI document which operations ask for a key, and that they may refuse one."""
    document["components"].setdefault("securitySchemes", {})["key"] = SCHEME
    for path, methods in document["paths"].items():
        for operation in methods.values() if path not in public else ():
            operation["security"] = [{"key": []}]
            responses = operation["responses"]
            for status, description in REFUSALS.items():
                responses.setdefault(status, {"description": description, "content": responses["500"]["content"]})
