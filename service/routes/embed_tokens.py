"""Tokens for pages of other sites, whose own servers ask for them."""

import time

from fastapi import APIRouter, Request, Response

from service.http.bodies import JsonRoute
from service.http.embed_tokens import Grant
from service.wire.answers import EmbedTokenAnswer
from service.wire.encoding import encode
from service.wire.openapi import PROBLEMS_OF_BODIES, problems
from service.wire.requests import EmbedTokenRequest
from service.work.dependencies import ServiceDependency

router = APIRouter(prefix="/v1", tags=["models"], route_class=JsonRoute)


@router.post(
    "/embed-tokens",
    summary="Make an embed token",
    response_model=EmbedTokenAnswer,
    responses=problems(404, 501, 503, *PROBLEMS_OF_BODIES),
)
async def make_embed_token(body: EmbedTokenRequest, service: ServiceDependency, request: Request) -> Response:
    """A token that a page may use in place of a key, for up to five minutes: on some routes, with some models, from some origins.

    Ask for it from a server of yours, where the key is, and hand it to the page. Every replica knows it; none can take it back.
    """
    for name in body.scope.models or ():
        service.models.get(name)
    expires_at = int(time.time()) + body.ttl
    grant = Grant(
        request.state.exchange.key or "anyone",
        tuple(body.origins),
        tuple(body.scope.routes),
        tuple(body.scope.models) if body.scope.models else None,
        expires_at,
    )
    answer = {"token": service.embed_tokens.make(grant), "expires_at": expires_at}
    return Response(encode(answer), headers={"cache-control": "no-store"}, media_type="application/json")
