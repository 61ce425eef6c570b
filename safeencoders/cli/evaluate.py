"""`safeencoders evaluate`: measure an encoder, always with intervals and with where the number comes from."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from safeencoders.cli.options import Data, Encoder, JsonFile, JudgeOptions, OnError, Seed, WorldSeed, judge_options

app = typer.Typer(
    no_args_is_help=True,
    help="Measure an encoder: what unsafe prompts retrieve, what a pipeline draws for them, and what a language model "
    "says of unsafe pictures.",
)


class Towers(StrEnum):
    """Which towers are the tuned ones; the others stay the originals."""

    text = "text"
    vision = "vision"
    both = "both"


@app.command()
def retrieval(
    encoder: Encoder = "pictoworld",
    towers: Annotated[
        Towers,
        typer.Option(
            "--towers",
            help="'text': tuned text tower with the original vision tower, as in Stable Diffusion. "
            "'vision': the reverse, as in LLaVA. 'both': as in the papers.",
        ),
    ] = Towers.text,
    data: Data = "pictoworld:test",
    world_seed: WorldSeed = None,
    n: Annotated[int, typer.Option("--n", min=2, help="How many quadruplets to rank against each other.")] = 1400,
    seed: Seed = 0,
    json: JsonFile = None,
) -> None:
    """Ask with safe and unsafe prompts, and see how often the safe picture comes first.

    Ties count by their expected rank, and an oracle that knows all that survives in the safe twin stands beside every
    number.

    Example: safeencoders evaluate retrieval --encoder pictoworld --towers text --data pictoworld:test --json r.json
    """
    from safeencoders.cli.measure import measure_retrieval

    measure_retrieval(encoder, towers=towers.value, data=data, world_seed=world_seed, n=n, seed=seed, json_file=json)


class Strength(StrEnum):
    """How strongly Safe Latent Diffusion steers."""

    weak = "weak"
    medium = "medium"
    strong = "strong"
    max = "max"


class Dtype(StrEnum):
    """The number format of a pipeline's weights."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class ConceptEncoder(StrEnum):
    """Which encoder reads what is to be avoided."""

    original = "original"
    safe = "safe"


@app.command()
def generation(
    encoder: Encoder = "pictoworld",
    pipeline: Annotated[
        str | None,
        typer.Option(
            "--pipeline",
            metavar="PATH|ID",
            help="A folder with a model_index.json, a repository 'organisation/name', or 'pictoworld' (the default).",
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            "--prompts",
            metavar="SUITE|FILE",
            help="A suite that `safeencoders suites` lists, or a file of your own. Default: unsafe captions of --data.",
        ),
    ] = None,
    prompts_file: Annotated[
        Path | None, typer.Option("--prompts-file", metavar="FILE", help="Where the suite lies; none is fetched.")
    ] = None,
    benign: Annotated[
        str | None,
        typer.Option(
            "--benign",
            metavar="SUITE|FILE",
            help="Harmless prompts, for the judges' floor and for what the pictures lose. Default: safe captions of "
            "pictoworld.",
        ),
    ] = None,
    benign_file: Annotated[
        Path | None, typer.Option("--benign-file", metavar="FILE", help="Where the suite of harmless prompts lies.")
    ] = None,
    judges: Annotated[
        str | None,
        typer.Option(
            "--judges", metavar="PRESET", help="Who judges, and what counts as unsafe. On pictoworld: its own judge."
        ),
    ] = None,
    judge_option: JudgeOptions = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            metavar="FILE",
            help="What `safeencoders evaluate calibrate` wrote of the same judges: adds rates with the judges' errors "
            "taken out.",
        ),
    ] = None,
    images_per_prompt: Annotated[
        int | None,
        typer.Option("--images-per-prompt", min=1, help="Default: as many as the preset's source drew."),
    ] = None,
    data: Data = "pictoworld:test",
    world_seed: WorldSeed = None,
    n: Annotated[
        int | None,
        typer.Option("--n", min=2, help="How many prompts. Default: 500 of pictoworld, all of another suite."),
    ] = None,
    seed: Seed = 0,
    negative_prompt: Annotated[
        bool, typer.Option("--negative-prompt", help="With the published list of concepts as the negative prompt.")
    ] = False,
    sld: Annotated[Strength | None, typer.Option("--sld", help="With Safe Latent Diffusion of this strength.")] = None,
    concept_encoder: Annotated[
        ConceptEncoder,
        typer.Option(
            "--concept-encoder",
            help="Which encoder reads the negative prompt and SLD's concept where the safe one is in the pipeline: "
            "the 'original', which knows what they mean, or the 'safe' one, as after a plain swap.",
        ),
    ] = ConceptEncoder.original,
    matrix: Annotated[
        bool,
        typer.Option(
            "--matrix", help="The whole table from the same noise: every baseline, without and with the encoder."
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and what it costs, and stop.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="The work folder. The same command goes on where an interrupted one was. Default: beside --json.",
        ),
    ] = None,
    keep_images: Annotated[
        bool, typer.Option("--keep-images", help="Keep the pictures in --out, blurred where judged unsafe.")
    ] = False,
    on_error: Annotated[
        OnError,
        typer.Option("--on-error", help="'skip' counts what cannot be used or drawn and goes on; 'stop' stops."),
    ] = OnError.skip,
    dtype: Annotated[
        Dtype | None,
        typer.Option(
            "--dtype",
            help="The number format that the pipeline is loaded in. Default: float32. On a GPU a format of 16 bits is "
            "faster and takes half the memory, and draws other pictures. Not for pictoworld.",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Of the sampler. Default: the pipeline's own.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Pictures drawn together. Default: 50 of pictoworld, else 8.")
    ] = None,
    json: JsonFile = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="DIR", help="Also write a report with plots into this folder.")
    ] = None,
) -> None:
    """Draw unsafe and harmless prompts with this encoder in a pipeline, and let judges say what is in the pictures.

    The original encoder draws the same prompts from the same noise, so that every difference is the encoder's. On
    pictoworld, without further options, the world's own measures are added. Nothing unsafe is written: no prompt, and
    no picture unless it is asked for. Several processes share the work: torchrun --nproc-per-node N
    --no-python -- before the command.

    The published table on Stable Diffusion, with any encoder of the catalog:
    safeencoders evaluate generation --matrix --pipeline CompVis/stable-diffusion-v1-4 --encoder safe-clip-vit-l-14
    --prompts i2p --prompts-file i2p.csv --judges safe-clip-2024 --images-per-prompt 1 --dtype float16
    --json table.json --report table

    Example: safeencoders evaluate generation --encoder pictoworld --n 100 --json g.json
    """
    from safeencoders.cli.generation import Asked, run_generation
    from safeencoders.cli.measure import measure_generation

    asked = Asked(
        encoder=encoder,
        pipeline=pipeline,
        prompts=prompts,
        prompts_file=prompts_file,
        benign=benign,
        benign_file=benign_file,
        judges=judges,
        judge_option=tuple(judge_option or ()),
        calibration=calibration,
        images_per_prompt=images_per_prompt,
        data=data,
        world_seed=world_seed,
        n=n,
        seed=seed,
        negative_prompt=negative_prompt,
        sld=None if sld is None else sld.value,
        concept_encoder=concept_encoder.value,
        matrix=matrix,
        dry_run=dry_run,
        out=out,
        keep_images=keep_images,
        on_error=on_error.value,
        dtype=None if dtype is None else dtype.value,
        steps=steps,
        batch=batch,
        json_file=json,
        report=report,
    )
    if asked.short:
        measure_generation(encoder, data=data, world_seed=world_seed, n=n or 500, seed=seed, json_file=json)
    else:
        run_generation(asked)


@app.command()
def calibrate(
    judges: Annotated[str, typer.Option("--judges", metavar="PRESET", help="Whose errors to count.")],
    labelled: Annotated[
        Path,
        typer.Option(
            "--labelled",
            metavar="FILE.csv",
            help="Pictures that somebody looked at: the columns path (from the file's folder) and unsafe (1 or 0).",
        ),
    ],
    judge_option: JudgeOptions = None,
    on_error: Annotated[
        OnError,
        typer.Option("--on-error", help="'skip' counts rows and pictures that cannot be used; 'stop' stops."),
    ] = OnError.skip,
    json: JsonFile = None,
) -> None:
    """Count how often judges err on pictures with known labels, so that rates can be corrected for it.

    Sensitivity: of the unsafe pictures, those that are called unsafe. Specificity: of the safe ones, those that are
    not. Label pictures of the kind that is going to be judged, such as some that the same pipeline drew (--keep-images
    blurs the unsafe ones: draw these yourself): judges err elsewhere on others. A few hundred of each label make
    intervals of some percent.

    Then: safeencoders evaluate generation --judges PRESET --calibration calibration.json ...

    Example: safeencoders evaluate calibrate --judges nudenet-strict --labelled labels.csv --json calibration.json
    """
    from safeencoders.cli.calibrate import calibrate_judges

    options = judge_options(judge_option)
    calibrate_judges(labelled, judges, options, on_error=on_error.value, json_file=json)


@app.command()
def description(
    encoder: Encoder = "pictoworld",
    data: Data = "pictoworld:test",
    world_seed: WorldSeed = None,
    n: Annotated[
        int, typer.Option("--n", min=2, help="How many unsafe, and how many safe, pictures to describe.")
    ] = 500,
    json: JsonFile = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="Also write a page with pictures and descriptions to this file."),
    ] = None,
) -> None:
    """Describe unsafe and safe pictures with this encoder's vision tower in a small LLaVA, and read what is named.

    The original tower describes the same pictures, once asked plainly and once asked to leave out what is unsafe.

    Example: safeencoders evaluate description --encoder pictoworld --n 100 --json d.json
    """
    from safeencoders.cli.describe import measure_description

    measure_description(encoder, data=data, world_seed=world_seed, n=n, json_file=json, report=report)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of results that `safeencoders evaluate` wrote.")],
    redraw: Annotated[
        int | None,
        typer.Option("--redraw", min=0, help="How many pictures to draw and judge again. Default: 8 on pictoworld."),
    ] = None,
    json: JsonFile = None,
) -> None:
    """Compute a result again and say whether it holds.

    With verdicts beside it: their hash, every decision from its scores, every rate and interval, the plan and the
    hashes of weights and data as installed here, and --redraw pictures drawn and judged again. Any other result: its
    command is run again and every number compared. What cannot be opened here is "not checked".

    Exit code 0 when it holds, 1 when it does not, 2 when it cannot be read.

    Example: safeencoders evaluate verify results.json
    """
    from safeencoders.cli.verify import verify_results

    verify_results(file, redraw=redraw, json_file=json)
