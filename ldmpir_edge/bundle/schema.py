"""The parts of a manifest: frozen pydantic models that refuse a key not listed here."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

from ldmpir_edge.bundle.dims import Dim, parse_dim
from ldmpir_edge.errors import UnsupportedSizeError
from ldmpir_edge.physics.problem import Family, Task

MAX_ENTRY_NAME = 128

Precision = Literal["fp32", "fp16", "int8"]

_ENTRY_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_TENSOR_NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"


def check_entry_name(name: str) -> str:
    """Answer `name` if it is safe to join to a folder: ASCII, relative, no dot-led part.

    Raises
    ------
    ValueError
        The name is absolute, leaves its folder, is hidden, too long or has odd characters.
    """
    if len(name) > MAX_ENTRY_NAME or _ENTRY_NAME.fullmatch(name) is None:
        raise ValueError(f"entry name {name[:MAX_ENTRY_NAME]!r} is not a plain relative path")
    return name


def _check_dim(dim: Dim) -> Dim:
    if isinstance(dim, str):
        parse_dim(dim)
    elif dim < 1:
        raise ValueError(f"dimension {dim} is below 1")
    return dim


EntryName = Annotated[str, AfterValidator(check_entry_name)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
SymbolicDim = Annotated[Dim, AfterValidator(_check_dim)]
Text = Annotated[str, Field(max_length=4000)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}$")]


class Frozen(BaseModel):
    """Base of all parts: immutable, strictly typed, no unknown keys, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ModelInfo(Frozen):
    """Which trained model the bundle carries."""

    id: Word
    version: Word
    n_parameters: PositiveInt
    licence: Annotated[str, Field(min_length=1, max_length=200)]


class TensorSpec(Frozen):
    """One engine input or output.

    `shape` holds integers and symbolic dimensions (`B`, `2W`, `n_steps-1`; see
    `ldmpir_edge.bundle.dims`); `range` is the interval of values the model was trained on.
    """

    name: Annotated[str, Field(pattern=_TENSOR_NAME)]
    dtype: Literal["float32", "float16", "int32", "int64"]
    shape: tuple[SymbolicDim, ...]
    range: tuple[float, float] | None = None


class FamilySpec(Frozen):
    """One form of the normal operator: its tensors and the tasks it serves.

    `inputs` lists every input of the family; a variant's graph may lack some (a one-step
    sampler takes no `noise`). `golden` names the entry with a known input and output pair.
    """

    name: Family
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)]
    inputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    outputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    golden: EntryName | None = None

    @model_validator(mode="after")
    def _tensors_are_distinct(self) -> Self:
        names = [tensor.name for tensor in (*self.inputs, *self.outputs)]
        if len(set(names)) != len(names):
            raise ValueError(f"family {self.name} names a tensor twice: {names}")
        return self


class SizeLimits(Frozen):
    """The scan sizes the model may be used for (pixels of the padded grid)."""

    min_height: PositiveInt
    max_height: PositiveInt
    min_width: PositiveInt
    max_width: PositiveInt
    multiple: PositiveInt = 16
    max_coils: PositiveInt
    max_views: PositiveInt

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_height > self.max_height or self.min_width > self.max_width:
            raise ValueError("a minimum size is above its maximum")
        return self

    def check(self, height: int, width: int, n_coils: int = 1, n_views: int = 1) -> None:
        """Refuse a scan outside the limits.

        Parameters
        ----------
        height, width
            Image size in pixels, before padding to `multiple`.
        n_coils
            Receive channels; 1 where there are none.
        n_views
            Projections; 1 where there are none.

        Raises
        ------
        UnsupportedSizeError
            A size is outside; the message states the range.
        """
        for what, size, low, high in (
            ("height", height, self.min_height, self.max_height),
            ("width", width, self.min_width, self.max_width),
            ("number of coils", n_coils, 1, self.max_coils),
            ("number of views", n_views, 1, self.max_views),
        ):
            if not low <= size <= high:
                raise UnsupportedSizeError(
                    f"the scan's {what} is {size}; this bundle takes {low} to {high}: "
                    "crop or resample the scan, or export a bundle with wider limits"
                )


class SamplerPreset(Frozen):
    """A number of bridge steps and the times they pass, from 1 down to 0."""

    n_steps: PositiveInt
    times: tuple[float, ...]

    @model_validator(mode="after")
    def _times_fall_from_one_to_zero(self) -> Self:
        falling = all(a > b for a, b in zip(self.times, self.times[1:], strict=False))
        if (
            len(self.times) != self.n_steps + 1
            or self.times[0] != 1
            or self.times[-1]
            or (not falling)
        ):
            raise ValueError(f"{self.n_steps} steps need {self.n_steps + 1} times from 1 to 0")
        return self


class SamplerSpec(Frozen):
    """The unrolled sampler; `sigma_bridge` is the bridge's noise scale."""

    presets: Annotated[tuple[SamplerPreset, ...], Field(min_length=1)]
    default_n_steps: PositiveInt
    sigma_bridge: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _default_is_a_preset(self) -> Self:
        counts = [preset.n_steps for preset in self.presets]
        if len(set(counts)) != len(counts) or self.default_n_steps not in counts:
            raise ValueError(f"default_n_steps {self.default_n_steps} is not one of {counts}")
        return self


class PrecisionSpec(Frozen):
    """What `fp16` or `int8` means here: the arithmetic of each part (network, physics, …)."""

    name: Precision
    parts: Annotated[dict[Word, Word], Field(min_length=1)]


class GateResult(Frozen):
    """One comparison of a variant with the PyTorch fp32 reference on held-out slices.

    `case` names the acquisition, such as `mri-r8`; bundles before 0.4.0 name only the task.
    `psnr_delta_*_db` is the PSNR of the variant minus that of the reference (negative = worse);
    `max_abs_diff` is in engine units, where the bright end of an image is about 1.
    """

    case: Word | None = None
    task: Task
    backend: Word
    n_slices: PositiveInt
    psnr_delta_mean_db: float
    psnr_delta_worst_db: float
    max_abs_diff: Annotated[float, Field(ge=0)]
    passed: bool


class VariantSpec(Frozen):
    """One graph and the external weights it points to, which lie in the same folder.

    `inputs` lists the family's inputs that this graph takes.
    """

    family: Family
    n_steps: PositiveInt
    precision: Precision
    graph: EntryName
    weights: tuple[EntryName, ...]
    inputs: Annotated[tuple[str, ...], Field(min_length=1)]
    opset: PositiveInt
    gate: tuple[GateResult, ...]

    @property
    def key(self) -> tuple[Family, int, Precision]:
        """What tells one variant from another."""
        return self.family, self.n_steps, self.precision

    @model_validator(mode="after")
    def _weights_lie_beside_the_graph(self) -> Self:
        # Both ONNX Runtime and OpenVINO refuse external data outside the graph's folder.
        folder = self.graph.rpartition("/")[0]
        for name in self.weights:
            if name.rpartition("/")[0] != folder:
                raise ValueError(f"weights {name} do not lie in the folder of {self.graph}")
        return self


class EntrySpec(Frozen):
    """Hash and size in bytes of one file in the bundle."""

    sha256: Sha256
    size: NonNegativeInt
