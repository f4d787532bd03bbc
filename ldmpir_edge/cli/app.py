"""The program `ldmpir-edge`: its commands, and how errors leave it."""

from __future__ import annotations

import sys

import typer

from ldmpir_edge.cli import (
    bench,
    compare,
    doctor,
    export,
    inspect,
    models,
    report,
    run,
    sample,
    serve,
    train,
    verify,
)
from ldmpir_edge.cli import compile as compile_command
from ldmpir_edge.cli.output import print_error
from ldmpir_edge.errors import LdmpirError

INTERRUPTED = 130

app = typer.Typer(
    name="ldmpir-edge",
    help="Run a learned MRI and CT reconstruction beside the scanner.",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run", rich_help_panel="Reconstruct")(run.run)
app.command("report", rich_help_panel="Reconstruct")(report.report)
app.command("sample", rich_help_panel="Reconstruct")(sample.sample)
app.command("serve", rich_help_panel="Reconstruct")(serve.serve)
app.command("models", rich_help_panel="Look")(models.models)
app.command("inspect", rich_help_panel="Look")(inspect.inspect)
app.command("doctor", rich_help_panel="Look")(doctor.doctor)
app.command("verify", rich_help_panel="Look")(verify.verify)
app.command("compare", rich_help_panel="Look")(compare.compare)
app.command("bench", rich_help_panel="Look")(bench.bench)
app.command("train", rich_help_panel="Make")(train.train)
app.command("export", rich_help_panel="Make")(export.export)
app.command("compile", rich_help_panel="Make")(compile_command.compile_engines)


def main() -> None:
    """Run the program; an expected error is one line and its own exit code."""
    try:
        # Not Typer's standalone mode, which frames its own errors in boxes of many lines.
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except LdmpirError as err:
        print_error(str(err))
        sys.exit(err.exit_code)
    except typer.TyperException as err:
        print_error(f"{err.format_message().rstrip('.')}; see ldmpir-edge COMMAND --help")
        sys.exit(err.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:
        print_error("interrupted")
    sys.exit(code)
