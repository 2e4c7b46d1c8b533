"""The door, shut while the queue is full: whoever comes then is told so as soon as the head is read.

Of a crowd most are refused, and what that takes is taken from those who were let in. So `protocol` asks here first, before there is
a task and a way through the middleware. What takes more than a look (a caller without a key, a page of another origin) goes that
way all the same, and `Batcher.submit` refuses it.
"""

from collections.abc import Sequence

from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from service.errors import OverloadedError, ServiceError, problem
from service.http.auth import authenticate
from service.http.middleware import Observers, begin, complete, end, header_of, let_go
from service.state import Service


class Door:
    """Refuses requests to the routes that wait for the device, where it has no room for them."""

    def __init__(self, service: Service, routes: Sequence[Route], observers: Observers) -> None:
        """The observers are told of what is refused, as of all other requests."""
        self.service = service
        self.routes = routes
        self.observers = observers

    def refuse(self, scope: Scope) -> Response | None:
        """The answer to a request that there is no room for; None for one that the app should see."""
        if scope["method"] != "POST":
            return None
        try:
            self.service.batcher.check_room()
        except OverloadedError as error:
            route = next((each for each in self.routes if each.path_regex.match(scope["path"])), None)
            return None if route is None or self._needs_more(scope) else self._answer(error, route, scope)
        return None

    def _needs_more(self, scope: Scope) -> bool:
        """Whether the answer has headers that the middleware makes."""
        is_of_a_page = self.service.settings.cors_origins and header_of(scope, b"origin") is not None
        return bool(is_of_a_page) or self.service.draining

    def _answer(self, error: OverloadedError, route: Route, scope: Scope) -> Response | None:
        """None for those who are to be told that they may not ask."""
        keys, tokens = self.service.keys, self.service.embed_tokens
        try:
            name = authenticate(scope, keys, tokens) if keys.required else None
        except ServiceError:
            return None
        scope["route"] = route  # by which metrics and the log call it
        exchange = begin(scope)
        exchange.key, exchange.error = name, error
        response = problem(error, scope)
        response.raw_headers = complete(response.raw_headers, exchange.request_id)
        exchange.status, exchange.response_bytes = response.status_code, len(response.body)
        end(exchange, self.observers)
        let_go(error)
        return response
