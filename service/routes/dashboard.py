"""The dashboard's files: `index.html` at `/`, `embed.html` at `/embed`, and all that they load at `/dashboard/…`.

They hold nothing that needs a key. What they show they ask of `/v1`, with a key that the reader gives, or with an embed token.
"""

import os
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from service.work.dependencies import ServiceDependency

FOLDER = Path(__file__).parents[1] / "dashboard"

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".png": "image/png",
}
"""Of our own files: what the machine's table says differs from system to system, and browsers run no script of another type."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors "
)
"""Nothing from other hosts, and no script or style but from files: a token's text that is HTML stays text."""

router = APIRouter(include_in_schema=False)


class Files(StaticFiles):
    """Static files, each of its own type, that browsers keep and ask about: an upgrade shows at once."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["cache-control"] = "no-cache"
        response.headers["content-type"] = MEDIA_TYPES.get(Path(full_path).suffix, "application/octet-stream")
        return response


@router.api_route("/", methods=["GET", "HEAD"])
async def show_dashboard(request: Request) -> Response:
    """The dashboard itself, which nobody may frame."""
    return await page("index.html", "'none'", request)


@router.api_route("/embed", methods=["GET", "HEAD"])
async def show_embed(request: Request, service: ServiceDependency) -> Response:
    """The view that other pages frame, where the settings let them."""
    return await page("embed.html", " ".join(service.settings.frame_ancestors), request)


async def page(name: str, frame_ancestors: str, request: Request) -> Response:
    """One of the pages, with what it may load and who may frame it."""
    files: Files = request.app.state.dashboard
    response = await files.get_response(name, request.scope)
    response.headers["content-security-policy"] = POLICY + frame_ancestors
    return response


def mount(app: FastAPI) -> None:
    """Serve the files themselves, under the path that the pages name."""
    app.state.dashboard = Files(directory=FOLDER)
    app.mount("/dashboard", app.state.dashboard, name="dashboard")
