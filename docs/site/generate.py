"""Pages that are made when the site is built: from the code, and from files outside docs/.

Files that lie elsewhere in the repository appear under their own path. Links between them and
docs/ are written for readers of the repository, and rewritten here.
"""

from __future__ import annotations

import posixpath
import re
import subprocess
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))
import manifest_page

ROOT = Path(__file__).resolve().parents[2]

FROM_THE_REPOSITORY = (
    *("CONTRIBUTING.md", "CHANGELOG.md", "models/*/CARD.md", "models/*/model.toml"),
    *("models/*/log.csv", "benchmarks/results/*.json", "constraints/*.txt"),
    *("runtimes/README.md", "runtimes/*/README.md", "runtimes/*/*.py"),
    *("examples/README.md", "examples/*.py"),
)

PACKAGES = {
    "reconstruct": "From a scan to checked images.",
    "scans": "Readers, preparation and writers.",
    "physics": "Acquisition models, noise, classical estimates and normal operators.",
    "bundle": "The `.ldmpir` file: manifest, hashes, signature.",
    "runtimes": "Inference engines behind one contract.",
    "report": "Metrics, figures and the HTML page.",
    "models": "The PyTorch model: U-Net, Krylov-subspace module, sampler.",
    "training": "Simulated scans, losses and the training loop.",
    "finetuning": "Learning from a site's own measurements.",
    "export": "Tracing, precision, the gate and the writing of bundles.",
    "serve": "The appliance.",
    "errors": "Every error, with its exit code.",
}

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lies outside docs/ and what is generated."""
    for pattern in FROM_THE_REPOSITORY:
        for path in sorted(ROOT.glob(pattern)):
            uri = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    made = {
        "reference/cli.md": command_line_page(),
        "reference/manifest.md": manifest_page.page(),
        "reference/manifest.schema.json": manifest_page.schema(),
        "reference/api/index.md": api_index(),
        **{f"reference/api/{name}.md": api_page(name) for name in PACKAGES},
    }
    for uri, content in made.items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links that leave docs/, or come from outside."""
    source = page.file.src_uri
    inside = page.file.generated_by is None
    place = posixpath.join("docs", source) if inside else source
    known = {file.src_uri for file in files}

    def rewritten(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        path, mark, anchor = target.partition("#")
        if not path or ":" in path:
            return match[0]
        meant = posixpath.normpath(posixpath.join(posixpath.dirname(place), path))
        found = next(
            (uri for uri in (meant, posixpath.join(meant, "README.md")) if uri in known), None
        )
        if meant.startswith("docs/"):
            found = meant.removeprefix("docs/")
        if found is None:
            # In the repository, but not on the site.
            return text if (ROOT / meant).exists() else match[0]
        link = posixpath.relpath(found, posixpath.dirname(source) or ".")
        return f"{picture}[{text}]({link}{mark}{anchor})"

    if source.startswith("reference/"):
        return markdown
    return LINK.sub(rewritten, markdown)


def command_line_page() -> str:
    """Describe every command and option, by Typer's own generator."""
    typer = [sys.executable, "-m", "typer", "ldmpir_edge.cli.app", "utils", "docs"]
    done = subprocess.run(
        [*typer, "--name", "ldmpir-edge", "--title", "Options, from the code"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def api_index() -> str:
    """List the packages, and the one function most need."""
    rows = "".join(f"| [{name}]({name}.md) | {text} |\n" for name, text in PACKAGES.items())
    return (
        "# Python API\n\nMade from the docstrings. Modules and names that begin with an underscore "
        f"are private.\n\n| package | |\n|---|---|\n{rows}\n"
        "::: ldmpir_edge.reconstruct.load\n"
    )


def api_page(name: str) -> str:
    """Describe everything public in one package."""
    return f"# {name}\n\n{PACKAGES[name]}\n\n::: ldmpir_edge.{name}\n"
