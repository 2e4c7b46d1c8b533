"""Request bodies: bounded, unpacked, and parsed straight into the route's model, from JSON or from a file of tensors."""

import asyncio
import zlib
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, ClassVar

from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import BodyTooLargeError, FieldError, InvalidError, Location, MalformedError, MediaTypeError
from service.settings import Settings
from service.wire.tensor_file import header_of, read_file
from service.wire.values import TAGS
from service.work.threads import run_off_loop

MESSAGES = {"extra_forbidden": "there is no such field; leave it out, or see /docs for those that there are"}
"""In place of pydantic's, where those don't say what to do."""

MAX_ERRORS = 100
"""How many wrong fields are named one by one."""

WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""The encodings of bodies that are unpacked, and what zlib calls them."""

Parse = Callable[[type[BaseModel], bytes, int], BaseModel]
"""Makes a model of a body, which holds no more than so many values."""


def parse_json(model: type[BaseModel], body: bytes, max_values: int) -> BaseModel:
    """The model that the JSON holds. The parser itself refuses nesting deeper than 200, before it builds anything.

    Raises `MalformedError` for what is not JSON, `InvalidError` for what is not the model, `BodyTooLargeError` for too many values.
    """
    check_values(body, max_values)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise refusal(error) from None


def parse_file(model: type[BaseModel], body: bytes, max_values: int) -> BaseModel:
    """The model that a file of tensors holds. Raises as `parse_json` does, and `InputError` for a tensor without a place."""
    check_values(header_of(body), max_values)
    try:
        return model.model_validate(read_file(body))
    except ValidationError as error:
        raise refusal(error) from None


def check_values(body: bytes, limit: int) -> None:
    """Raise `BodyTooLargeError` for JSON of more values than `limit`, before any is built: 3 bytes of `[],` become 64 in memory.

    Every value but the first follows a comma or an opening bracket; those within texts count too, which is of no account.
    """
    if len(body) > limit and body.count(b",") + body.count(b"[") + body.count(b"{") > limit:
        raise BodyTooLargeError(limit, "values")


class JsonRoute(APIRoute):
    """A route whose body is read by pydantic's own JSON parser, which is several times faster than json.loads.

    FastAPI describes it, and doesn't call it, since it finds out anew for every request what the arguments are: the body, parts of
    the path, the request, and what dependencies make of the request alone.
    """

    parsers: ClassVar[Mapping[str, Parse]] = {"application/json": parse_json}
    """By the media type of the body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        if self.body_field is None:
            return super().get_route_handler()
        model: type[BaseModel] = self.body_field.field_info.annotation  # type: ignore[assignment]
        body, dependant = self.body_field.name, self.dependant
        path = [field.name for field in dependant.path_params]
        makers = [(each.name, each.call) for each in dependant.dependencies if each.call is not None]

        async def answer(request: Request) -> Response:
            arguments: dict[str, Any] = {body: await self.read(request, model)}
            arguments |= {name: request.path_params[name] for name in path}
            if dependant.request_param_name is not None:
                arguments[dependant.request_param_name] = request
            for name, make in makers:
                made = await make(request)
                if name is not None:  # else it only refuses
                    arguments[name] = made
            response: Response = await self.endpoint(**arguments)
            return response

        return answer

    async def read(self, request: Request, model: type[BaseModel]) -> BaseModel:
        """The body as a `model`, parsed off the loop where it is long."""
        parse = choose_parser(request, self.parsers)
        body = await read_body(request)
        return await run_off_loop(request.state.is_long, parse, model, body, max_values(request))


class Straight:
    """Leads straight to the routes with bodies at paths that have no parts to fill in.

    The router would try one path after the other, and FastAPI has layers around each route for what these don't use: errors are
    answered the same further out.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        self.app = app
        plain = [each for each in routes if isinstance(each, JsonRoute) and each.body_field and not each.param_convertors]
        self.routes = {(method, each.path): (each, each.get_route_handler()) for each in plain for method in each.methods or ()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self.routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if found is None:
            await self.app(scope, receive, send)
            return
        scope["route"], answer = found
        response = await answer(Request(scope, receive, send))
        await response(scope, receive, send)


def max_values(request: Request) -> int:
    """How many values the JSON of a request may hold."""
    limit: int = request.app.state.service.settings.max_json_values
    return limit


class TensorRoute(JsonRoute):
    """Likewise, and a file of tensors will do as well."""

    parsers: ClassVar[Mapping[str, Parse]] = {"application/json": parse_json, "application/x-safetensors": parse_file}


def choose_parser(request: Request, parsers: Mapping[str, Parse]) -> Parse:
    """Raise `MediaTypeError` for any other body, and for one of no type: a browser lets any page post either here unasked."""
    media_type = request.headers.get("content-type", "")
    parse = parsers.get(media_type.partition(";")[0].strip().lower())
    if parse is None:
        known = " or ".join(parsers)
        raise MediaTypeError(f"this body is not read here; send it with Content-Type: {known}, not {media_type or 'without one'}")
    return parse


async def read_body(request: Request) -> bytes:
    """The whole body, unpacked; whether it is long is noted in the request's state, for those who work on it next.

    Raises `BodyTooLargeError` for one that is longer than allowed when it is unpacked, `MediaTypeError` for an unknown
    encoding, `MalformedError` for a broken one.
    """
    settings: Settings = request.app.state.service.settings
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"identity", *WINDOWS}:
        raise MediaTypeError(f"a body's Content-Encoding is {' or '.join(WINDOWS)}, or there is none; not {encoding}")
    body = await receive_body(request)
    if encoding in WINDOWS:
        body = await asyncio.to_thread(inflate, body, encoding, settings.max_body_bytes)
        request.state.hold(len(body))
    request.state.is_long = len(body) > settings.inline_read_bytes
    return body


async def receive_body(request: Request) -> bytes:
    """The body as it is sent, within the bounds that the middleware sets."""
    body = bytearray()  # and no list of chunks: there may be millions of them, of a byte each
    is_whole = False
    while not is_whole:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        is_whole = not message.get("more_body", False)
    return bytes(body)


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """The body unpacked, of which no more than `limit` bytes are ever made."""
    unpacking = zlib.decompressobj(WINDOWS[encoding])
    try:
        unpacked = unpacking.decompress(body, limit + 1)
    except zlib.error as error:
        raise MalformedError(f"the body is not {encoding}, as Content-Encoding has it: {error}") from error
    if len(unpacked) > limit:
        raise BodyTooLargeError(limit)
    if not unpacking.eof or unpacking.unused_data:
        raise MalformedError(f"the body is not {encoding}, as Content-Encoding has it: it ends too early, or goes on after its end")
    return unpacked


def refusal(error: ValidationError) -> MalformedError | InvalidError:
    """What the service says for pydantic."""
    if error.error_count() > MAX_ERRORS:
        return InvalidError([FieldError((), f"{error.error_count()} fields are wrong; see /docs for those that there are")])
    errors = error.errors(include_url=False, include_input=False)
    if errors[0]["type"] == "json_invalid":
        return MalformedError(f"the body is not JSON: {errors[0]['ctx']['error']}")
    return InvalidError([FieldError(without_tags(each["loc"]), MESSAGES.get(each["type"], each["msg"])) for each in errors])


def without_tags(location: Location) -> Location:
    """The path as the sender knows it."""
    return tuple(part for part in location if part not in TAGS)
