"""Export targets: one TOML file a device class."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ldmpir_edge.bundle import BuildRecipe, SizeLimits, TypicalScan
from ldmpir_edge.errors import UsageError
from ldmpir_edge.export.parsers import PARSERS
from ldmpir_edge.physics.problem import FAMILIES, Family

# In a wheel the files lie in the package, in a checkout in the top-level folder export/.
_FOLDERS = (
    Path(__file__).parent / "targets",
    Path(__file__).resolve().parents[2] / "export",
)


class EngineTarget(BaseModel):
    """How a device class with TensorRT gets its engines.

    `parser` is the version that `inspect --lint` checks against. With `compute_capabilities`
    (`8.6`) the export compiles engines of `families` and `n_steps` for them; without, they are
    compiled on the device, by `typical`, `workspace_mib` and `timing_cache` as `BuildRecipe` has
    them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: Literal["tensorrt", "tensorrt_rtx"]
    parser: str
    compute_capabilities: tuple[str, ...] = ()
    families: tuple[Family, ...] = FAMILIES
    n_steps: tuple[int, ...] = ()
    workspace_mib: int | None = None
    timing_cache: bool = True
    typical: TypicalScan = TypicalScan()

    @property
    def recipe(self) -> BuildRecipe:
        """What the manifest says for `compile`."""
        return BuildRecipe(
            backend=self.backend,
            typical=self.typical,
            workspace_mib=self.workspace_mib,
            timing_cache=self.timing_cache,
        )

    @model_validator(mode="after")
    def _can_be(self) -> Self:
        if self.parser not in PARSERS:
            raise ValueError(f"parser {self.parser!r} is not one of {', '.join(PARSERS)}")
        if self.compute_capabilities and self.backend != "tensorrt_rtx":
            raise ValueError("only tensorrt_rtx compiles for another device: compute_capabilities")
        if bool(self.compute_capabilities) != bool(self.n_steps):
            raise ValueError("compute_capabilities and n_steps of the engines belong together")
        return self


class Target(BaseModel):
    """What an export for a device class contains and how it is gated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str
    n_steps: tuple[int, ...] = Field(min_length=1)
    default_n_steps: int
    gate_backends: tuple[str, ...] = Field(min_length=1)
    limits: SizeLimits
    engine: EngineTarget | None = None

    @model_validator(mode="after")
    def _engines_are_of_its_steps(self) -> Self:
        if self.engine and (absent := set(self.engine.n_steps) - set(self.n_steps)):
            raise ValueError(f"engines of {sorted(absent)} steps, which the target does not export")
        return self


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
