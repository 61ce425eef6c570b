"""Serving the page: on a port that is held before anything is loaded, with nothing let in that is too large.

Every answer forbids the browser to load anything from elsewhere, so that the page cannot call home even by mistake.
"""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import fastapi
import gradio as gr
import uvicorn
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

from safeencoders.demo import limits, looks
from safeencoders.errors import OutputError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST, PORTS = "127.0.0.1", range(7860, 7960)
BODY_BYTES = limits.UPLOAD_BYTES + 2**16
"""Of one request; an upload has some lines around it."""
HEADERS = {
    "content-security-policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'; "
    "form-action 'self'; base-uri 'self'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
GRACE_SECONDS = 2


def listen(host: str = HOST, port: int | None = None) -> socket.socket:
    """Take a port.

    Args:
        host: an address of this machine; any other than the loopback is open to its network.
        port: None: the first free one from 7860 on.

    Raises:
        OutputError: it is in use, or the address is not this machine's.
    """
    found: OSError | None = None
    for number in PORTS if port is None else (port,):
        taken = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((host, number))
            taken.listen()
        except OSError as error:
            taken.close()
            found = error
        else:
            return taken
    where = f"port {port}" if port is not None else f"a port from {PORTS[0]} to {PORTS[-1]}"
    raise OutputError(
        f"expected {where} on {host} to be free, it is not ({found}); choose another --port or --host"
    ) from found


def serve(taken: socket.socket, make: Callable[[], gr.Blocks]) -> None:
    """Make the page and show it until Ctrl-C."""
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # uvicorn raises it once more, and files are to be removed
    with server(make) as ready:
        host, port = taken.getsockname()[:2]
        print(f"The demo is at http://{f'[{host}]' if ':' in host else host}:{port}/ (Ctrl-C ends it)", flush=True)
        try:
            ready.run([taken])
        except KeyboardInterrupt:
            print("ended")


@contextmanager
def server(make: Callable[[], gr.Blocks]) -> Iterator[uvicorn.Server]:
    """Give a server of a page; the page's files lie in a folder that is removed with all that is in it."""
    with tempfile.TemporaryDirectory(prefix="safeencoders-demo-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # read when components are made
        app = gr.mount_gradio_app(
            fastapi.FastAPI(openapi_url=None), make(), "/", max_file_size=limits.UPLOAD_BYTES, footer_links=[],
            run_history=False, show_error=False, ssr_mode=False, enable_monitoring=False, mcp_server=False, pwa=False,
            theme=looks.theme(), css=looks.CSS,
        )  # fmt: skip
        config = uvicorn.Config(Fence(app), log_level="warning", timeout_graceful_shutdown=GRACE_SECONDS)
        yield uvicorn.Server(config)


class Fence:
    """Stands before the page: refuses bodies that are too large as they come in, adds HEADERS to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await (self._answer if scope["type"] == "http" else self.app)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        read, begun = 0, False

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > BODY_BYTES:
                raise _TooLargeError
            return message

        async def with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                if read > BODY_BYTES:  # what the page's own server makes of the error below
                    message["status"] = 413
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        try:
            if int(Headers(scope=scope).get("content-length") or 0) > BODY_BYTES:
                while (await receive()).get("more_body"):  # a client that still sends would not read the answer
                    pass
                raise _TooLargeError
            await self.app(scope, counted, with_headers)
        except _TooLargeError:
            if not begun:
                text = f"Expected at most {limits.UPLOAD_BYTES // 2**20} MB, got more.\n"
                await PlainTextResponse(text, status_code=413)(scope, receive, with_headers)


class _TooLargeError(Exception):
    """A request body beyond the limit."""
