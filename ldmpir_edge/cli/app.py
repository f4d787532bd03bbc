"""The program `ldmpir-edge`: its commands, and how errors leave it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ldmpir_edge import __version__
from ldmpir_edge.cli import (
    bench,
    compare,
    doctor,
    export,
    finetune,
    inspect,
    models,
    promote,
    report,
    rollback,
    run,
    sample,
    serve,
    train,
    verify,
)
from ldmpir_edge.cli import compile as compile_command
from ldmpir_edge.cli.loudness import with_loudness
from ldmpir_edge.cli.output import print_error, print_result
from ldmpir_edge.errors import LdmpirError

INTERRUPTED = 130
EXAMPLES = """
[dim]ldmpir-edge sample mri -o demo[/dim]

[dim]ldmpir-edge run demo/sample-mri.h5 -o out --format dicom,png[/dim]

[dim]ldmpir-edge report demo/sample-mri.h5 -o scan.html[/dim]
"""

app = typer.Typer(
    name="ldmpir-edge",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run", rich_help_panel="Reconstruct")(with_loudness(run.run))
app.command("report", rich_help_panel="Reconstruct")(with_loudness(report.report))
app.command("sample", rich_help_panel="Reconstruct")(with_loudness(sample.sample))
app.command("serve", rich_help_panel="Reconstruct")(serve.serve)
app.command("promote", rich_help_panel="Reconstruct")(with_loudness(promote.promote))
app.command("rollback", rich_help_panel="Reconstruct")(with_loudness(rollback.rollback))
app.command("models", rich_help_panel="Look")(with_loudness(models.models))
app.command("inspect", rich_help_panel="Look")(with_loudness(inspect.inspect))
app.command("doctor", rich_help_panel="Look")(with_loudness(doctor.doctor))
app.command("verify", rich_help_panel="Look")(with_loudness(verify.verify))
app.command("compare", rich_help_panel="Look")(with_loudness(compare.compare))
app.command("bench", rich_help_panel="Look")(with_loudness(bench.bench))
app.command("train", rich_help_panel="Make")(with_loudness(train.train))
app.command("finetune", rich_help_panel="Make")(with_loudness(finetune.finetune))
app.command("export", rich_help_panel="Make")(with_loudness(export.export))
app.command("compile", rich_help_panel="Make")(with_loudness(compile_command.compile_engines))


def main() -> None:
    """Run the program; an expected error is one line and its own exit code."""
    try:
        # Not Typer's standalone mode, which frames its own errors in boxes of many lines.
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except LdmpirError as err:
        print_error(str(err))
        sys.exit(err.exit_code)
    except typer.TyperException as err:
        print_error(f"{err.format_message().rstrip('.')}; see {_asked(err)} --help")
        sys.exit(err.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:
        print_error("interrupted")
    sys.exit(code)


def _asked(err: typer.TyperException) -> str:
    """Name the command that was misused, as its user would type it."""
    context = getattr(err, "ctx", None)
    return str(context.command_path) if context else "ldmpir-edge"


def _print_version(wanted: bool) -> None:
    if wanted:
        print_result(__version__)
        raise typer.Exit


@app.callback(epilog=EXAMPLES)
def _program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Run a learned MRI and CT reconstruction beside the scanner."""
