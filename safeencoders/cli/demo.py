"""`safeencoders demo`: a page in the browser, on this machine only."""

from typing import Annotated

import typer


def demo(
    port: Annotated[
        int | None,
        typer.Option("--port", metavar="N", min=1, max=65535, help="Default: the first free one from 7860 on."),
    ] = None,
    host: Annotated[
        str,
        typer.Option("--host", metavar="ADDRESS", help="Which address to listen on; others than this machine's "
                     "loopback let its whole network in."),
    ] = "127.0.0.1",
    pipeline: Annotated[
        str,
        typer.Option("--pipeline", metavar="PATH|ID", help="What draws: 'pictoworld' for the shipped one, a folder "
                     "with a model_index.json, or a repository 'organisation/name'."),
    ] = "pictoworld",
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", metavar="NAME", help="The safe encoder; default: what the catalog has for the "
                     "pipeline."),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option("--judge", metavar="NAME", help="Who says what is unsafe; default: the world's judge for "
                     "pictoworld, nudenet for others. Without any, every picture is blurred."),
    ] = None,
) -> None:  # fmt: skip
    """Show before and after in a browser: draw, search, describe, compare, try to get round it.

    Nothing is sent anywhere, and files are deleted after use. Pictures judged unsafe are blurred until they are
    clicked. Ctrl-C ends it.

    Example: safeencoders demo --port 7860
    """
    from safeencoders.errors import MissingExtraError

    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("gradio", "demo") from error
    from safeencoders.demo.app import run

    run(pipeline, encoder, judge, host=host, port=port)
