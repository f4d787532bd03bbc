"""Export targets: one TOML file a device class."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ldmpir_edge.bundle import SizeLimits
from ldmpir_edge.errors import UsageError

# In a wheel the files lie in the package, in a checkout in the top-level folder export/.
_FOLDERS = (
    Path(__file__).parent / "targets",
    Path(__file__).resolve().parents[2] / "export",
)


class Target(BaseModel):
    """What an export for a device class contains and how it is gated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str
    n_steps: tuple[int, ...] = Field(min_length=1)
    default_n_steps: int
    gate_backends: tuple[str, ...] = Field(min_length=1)
    limits: SizeLimits


def list_targets() -> dict[str, Path]:
    """Return the target files by name."""
    return {path.stem: path for folder in _FOLDERS for path in sorted(folder.glob("*.toml"))}


def read_target(name: str) -> Target:
    """Read a target by name, or from a path that ends in .toml.

    Raises
    ------
    UsageError
        There is no such target, or its file is invalid.
    """
    known = list_targets()
    path = Path(name) if name.endswith(".toml") else known.get(name)
    if path is None:
        raise UsageError(f"no export target {name!r}; known: {', '.join(sorted(known))}")
    try:
        return Target(**tomllib.loads(path.read_text()))
    except (OSError, ValidationError, tomllib.TOMLDecodeError, TypeError) as err:
        reason = str(err).replace("\n", " ")
        raise UsageError(f"{path} is not an export target: {reason}") from err
