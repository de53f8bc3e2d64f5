"""`lifespan`: what is written behind is handed off when an ASGI server ends."""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from strata.durations import Duration, seconds
from strata.errors import StrataError
from strata.integrations.django.project import project

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


def lifespan(application: Application, *, timeout: Duration = 5) -> Application:
    """Django's ASGI application, with an end: the project's store is closed when the server has answered its last
    request, and flushes what is written behind, for `timeout` seconds at most.

    Servers such as uvicorn end their processes by the signal itself, after which nothing of Python's runs, and Django's
    own application leaves the events of ASGI's lifespan protocol unanswered. Where it does not get done in time, the
    server is told so, and logs it. Raises `InvalidConfigError` for what is no time.

    >>> from django.core.asgi import get_asgi_application
    >>> application = lifespan(get_asgi_application())
    """
    patience = seconds(timeout, "timeout") or 0.0

    async def wrapped(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send, patience)
        else:
            await application(scope, receive, send)

    return wrapped


async def _live(receive: Receive, send: Send, patience: float) -> None:
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    try:
        await to_thread(project.forget, patience)
    except StrataError as error:
        await send({"type": "lifespan.shutdown.failed", "message": str(error)})
    else:
        await send({"type": "lifespan.shutdown.complete"})
