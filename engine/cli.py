"""The command `assay`: what is not a build. Building is Snakemake's.

assay explain METHOD              what a method asks for and what it learns from, without a model
assay grade IN.jsonl OUT.jsonl    grade your own completions with the grader every table uses
assay plan CONFIG                 what a configuration would run and cost, and what difference it could tell from chance
assay verify PATH                 whether results still are what was written, and could be made again
assay export PATH OUT             a finished stage as a Hugging Face folder with a model card
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from engine import data, record
from engine import explain as explaining
from engine import verify as verifying
from engine.methods import MATCHED

app = typer.Typer(
    help="Assay, a referee for LLM post-training methods. Exit codes: 0 done, 1 a mistake in the input, 2 a wrong command.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command(epilog="Example: assay explain METHOD --preset as_released")
def explain(
    method: Annotated[str, typer.Argument(help="a file in the methods folder, without .py")],
    preset: Annotated[str, typer.Option(help="one of the method's presets")] = MATCHED,
    methods_dir: Annotated[Path, typer.Option(help="the folder of method files")] = Path("methods"),
) -> None:
    """Print a method's claim, its settings under each preset, and its conversation with three scripted policies."""
    typer.echo(explaining.explain(method, preset, methods_dir))


@app.command(
    epilog='Example: echo \'{"answer": "1/2", "completion": "so \\\\boxed{0.5}"}\' > in.jsonl; assay grade in.jsonl out.jsonl'
)
def grade(
    source: Annotated[
        Path, typer.Argument(metavar="IN.jsonl", help="rows with `answer` (gold), `completion` and optionally `finish_reason`")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT.jsonl", help="the same rows with `correct`, `extracted` and `status` added")
    ],
    workers: Annotated[int, typer.Option(help="processes for answers that need symbolic comparison")] = 1,
    grader: Annotated[str, typer.Option(help="assay, or plain: bare math-verify on the whole completion")] = "assay",
    cache: Annotated[Path | None, typer.Option(help="file that keeps verdicts; made if missing, shared by processes")] = None,
) -> None:
    """Grade completions against gold answers: the last boxed answer after the last think tag, compared as mathematics.

    The answer is the content of the last \\boxed{} or \\fbox{} in the text after the last </think>; boxes that only a comma or
    "and" separates are one answer. No closed box, an empty one and an unfinished thought are no answer: a number outside a
    box never counts. A row whose `finish_reason` is "length" was cut off and is wrong. Status: correct, wrong, no_answer,
    truncated, or undecided (a time limit, or a text that cannot be read).
    """
    from engine.grade import Grader

    if not source.is_file():
        raise ValueError(f"{source} does not exist")
    rows = record.read_rows(source)
    for number, row in enumerate(rows, 1):
        if missing := {"answer", "completion"} - row.keys():
            raise ValueError(f"{source} line {number} has no {sorted(missing)[0]!r}; every row needs answer and completion")
        row["answer"] = data.as_text(row["answer"], f"{source} line {number}: answer")
        row["completion"] = data.as_text(row["completion"], f"{source} line {number}: completion")
    with Grader(workers=workers, preset=grader, cache=cache) as one:
        grades = one.grade(
            [(row["completion"], row["answer"]) for row in rows],
            [row.get("finish_reason") == "length" for row in rows],
        )
    graded = (
        {**row, "correct": grade.correct, "extracted": grade.extracted, "status": grade.status}
        for row, grade in zip(rows, grades, strict=True)
    )
    # Escaped: JSON may hold a lone surrogate, which no file of UTF-8 can.
    record.write_text(out, "".join(json.dumps(row) + "\n" for row in graded))
    typer.echo(f"{sum(grade.correct for grade in grades)} of {len(grades)} correct, written to {out}")


@app.command(epilog="Example: assay plan config/miniature.yaml --seeds 3")
def plan(
    config: Annotated[Path, typer.Argument(help="a configuration file")],
    seeds: Annotated[int, typer.Option(min=0, help="training seeds, if not those of the configuration")] = 0,
    rehearse: Annotated[bool, typer.Option(help="the rehearsal: the same jobs with the miniature model")] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option("--config", metavar="KEY=VALUE", help="change a setting, as Snakemake's --config; repeat"),
    ] = None,
) -> None:
    """Say what a configuration would run and cost, and the smallest difference it could tell from chance. Runs nothing.

    Jobs, GPU-hours, tokens, FLOPs, disk and memory, on the `hardware` that the configuration declares; exit code 1 if it cannot
    fit there.
    """
    import yaml
    from snakemake.utils import update_config

    from workflow.forecast import full
    from workflow.plan import checked

    if not config.is_file():
        raise ValueError(f"configuration {config} does not exist; the ones that come with Assay are in config/")
    settings = yaml.safe_load(config.read_text())
    for change in changes or ():
        key, equals, value = change.partition("=")
        if not equals:
            raise ValueError(f"--config {change!r} is not KEY=VALUE, like 'train={{zero_stage: 3}}'")
        update_config(settings, {key: yaml.safe_load(value)})
    told = {"seeds": list(range(seeds))} if seeds else {}
    text, refused = full(checked(settings | told | ({"rehearse": True} if rehearse else {})))
    typer.echo(text)
    if refused:
        raise ValueError("\n".join(refused))


@app.command(epilog="Example: assay verify results/miniature")
def verify(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="a folder of results, a stage's folder, or one done.json or provenance.json")
    ],
) -> None:
    """Recompute the digests in every record under PATH and say what no longer matches.

    Either a result was changed, or the sources it was made from were: code, data, packages. Run it in the repository's root.
    Exit code 1 if anything differs.
    """
    report = verifying.verify(path)
    for line in report.lines():
        typer.echo(line)
    if report.findings:
        raise typer.Exit(1)


@app.command(epilog="Example: assay export results/miniature/METHOD/seed0/METHOD exported/METHOD --license apache-2.0")
def export(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="the folder of a finished stage (done.json, model/)")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="the folder to write; it must not exist, or be empty")],
    licence: Annotated[str | None, typer.Option("--license", help="if the base model's own card does not say it")] = None,
    base_model: Annotated[str | None, typer.Option(help="its name on the Hub; otherwise what the configuration says")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="name of the training data on the Hub; may be repeated")] = None,
    flawed: Annotated[bool, typer.Option(help="also with an injected bug or a failed check; the card begins with it")] = False,
) -> None:
    """Write a stage's weights, tokenizer and certificate as a Hugging Face folder, with a model card made from its records.

    Run it in the repository's root. Refused: what is not finished, no longer what was written, or failed its checks.
    """
    from engine.export import export as written

    written(path, out, licence, base_model, dataset or (), flawed)
    typer.echo(f"{path} exported to {out}; upload it with: hf upload REPO {out}")


def main() -> None:
    """Entry point of the command: mistakes in the input are one line, not a traceback."""
    try:
        app()
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
