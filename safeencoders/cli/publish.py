"""`safeencoders publish`: stage an encoder with its measured card, send it to the Hub in one commit, and compare."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from safeencoders.cards.material import Material
    from safeencoders.publishing import Staged


def publish(
    name: Annotated[str, typer.Argument(metavar="DIR|NAME", help="What 'train --out' wrote, or a shipped encoder.")],
    repo: Annotated[str, typer.Option("--repo", metavar="ORG/NAME", help="Where on the Hub.")],
    private: Annotated[bool, typer.Option("--private", help="A new repository is private.")] = False,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open a pull request, and write nothing else.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stage and check everything, send nothing.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Keep what was staged in this new folder.")
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            "--results",
            metavar="DIR",
            help="The files that 'evaluate --json' wrote. Default: DIR/results, or model_cards/results/NAME.",
        ),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option("--licence", metavar="SPDX", help="Of the weights of DIR, such as CC-BY-NC-4.0 or MIT."),
    ] = None,
    sign: Annotated[
        Path | None,
        typer.Option("--sign", metavar="KEY.pem", help="Sign with this private key; needs the extra 'signing'."),
    ] = None,
) -> None:
    """Publish an encoder: weights, tokenizer, processor, files for open_clip, card, results and manifest in one commit.

    Pickles, numbers that nobody measured, and a licence that the base or the data forbids are refused before anything
    is sent. What was published is downloaded again and compared bit for bit. Run the same again after any fault.

    Example: safeencoders publish pictoworld --repo my-lab/pictoworld --dry-run --out staged
    """
    from safeencoders import publishing, uploading
    from safeencoders.errors import BadInputError
    from safeencoders.files import output_folder
    from safeencoders.hub import is_id

    if not is_id(repo):
        raise BadInputError(f"expected --repo 'organisation/name', got {repo!r}")
    if not dry_run:
        uploading.check_names(repo)
    place = _results(name, results)
    with tempfile.TemporaryDirectory(prefix="safeencoders-") as scratch:
        with output_folder(out or Path(scratch) / "staged") as folder:
            found = _material(name, place, licence)
            publishing.refuse_unmeasured(found)
            staged = publishing.stage(name, folder, found, repo)
            publishing.check_towers(folder, folder, found.encoder.towers)
            if sign is not None:
                publishing.sign(folder, sign)
        folder = out or Path(scratch) / "staged"
        _say(folder, staged)
        if dry_run:
            typer.echo(f"nothing was sent{f'; staged in {out}' if out else ''}")
            return
        sent = uploading.upload(folder, repo, private=private, create_pr=create_pr)
        uploading.verify(folder, sent, found.encoder.towers)
    where = sent.pull_request or f"{repo} at {sent.commit}"
    typer.echo(f"published: {where}" if sent.done else f"already published: {where}; nothing had to be sent")
    typer.echo("downloaded again and compared: every file, and every weight as plain transformers loads it")


def _results(name: str, given: Path | None) -> Path:
    from safeencoders.cli.cards import slug

    if given is not None:
        return given
    return Path(name) / "results" if Path(name).is_dir() else Path("model_cards/results") / slug(name)


def _material(name: str, results: Path, licence: str | None) -> Material:
    from safeencoders import catalog, publishing
    from safeencoders.cli.cards import shipped_material
    from safeencoders.cli.publish_folder import folder_material
    from safeencoders.errors import BadInputError
    from safeencoders.loading import encoder_folder

    if Path(name).is_dir():
        return folder_material(Path(name), results, licence)
    listed = catalog.find(name)
    if listed is None:
        encoder_folder(name)  # says which names there are
        raise BadInputError(f"expected a folder or a shipped encoder, got {name!r}, which is on the Hub already")
    if listed.name == catalog.ORIGINAL:
        raise BadInputError("expected a tuned encoder, got 'none', the original of the world")
    publishing.refuse_licence(listed, None, ())
    if licence is not None and licence != listed.licence:
        raise BadInputError(f"expected no --licence for {name}, which stands under {listed.licence}, got {licence!r}")
    if not results.is_dir():
        raise BadInputError(
            f"expected the results of {name} in {results}, found no such folder; run this in a checkout of the "
            "repository, or name the folder with --results"
        )
    return shipped_material(name, results, results.parents[2] / "benchmarks" if len(results.parents) > 2 else results)


def _say(folder: Path, staged: Staged) -> None:
    from safeencoders.publishing import sizes

    for name, size in sizes(folder).items():
        typer.echo(f"{size:>12,}  {name}")
    for note in staged.notes:
        typer.echo(f"note: {note}")
