"""The manifest: what a bundle holds, for what it may be used, and how it was checked.

`parse_manifest` is the only way in for foreign bytes.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AwareDatetime,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from ldmpir_edge.bundle.engines import BuildRecipe, EngineSpec
from ldmpir_edge.bundle.finetuning import FinetuningSpec
from ldmpir_edge.bundle.schema import (
    EntryName,
    EntrySpec,
    FamilySpec,
    Frozen,
    ModelInfo,
    Precision,
    PrecisionSpec,
    SamplerSpec,
    Sha256,
    SizeLimits,
    Text,
    VariantSpec,
    Word,
)
from ldmpir_edge.errors import BundleError, BundleVersionError
from ldmpir_edge.physics.problem import FAMILIES, Family

MANIFEST_VERSION: Literal[1] = 1


class Manifest(Frozen):
    """Everything a bundle says about itself.

    `scaling` is the scaling contract in words; `source_hashes` the SHA-256 of the weights and
    recipes the bundle was made from; `verified` is false when the gate was skipped; `created`
    the time of export with its zone. `engines` were compiled ahead of time, `recipe` says how to
    compile others on the device; `finetuning` where the weights come from, of a model that a site
    has fine-tuned. `entries` covers every file except the manifest itself, its
    digest and the signature.
    """

    format: Literal["ldmpir"] = "ldmpir"
    manifest_version: Literal[1] = MANIFEST_VERSION
    model: ModelInfo
    created: AwareDatetime
    verified: bool
    sampler: SamplerSpec
    scaling: Text
    limits: SizeLimits
    families: Annotated[tuple[FamilySpec, ...], Field(min_length=1, max_length=len(FAMILIES))]
    precisions: Annotated[tuple[PrecisionSpec, ...], Field(min_length=1)]
    variants: Annotated[tuple[VariantSpec, ...], Field(min_length=1)]
    engines: tuple[EngineSpec, ...] = ()
    recipe: BuildRecipe | None = None
    finetuning: FinetuningSpec | None = None
    source_hashes: dict[EntryName, Sha256]
    tool_versions: dict[Word, Word]
    notes: Text = ""
    entries: dict[EntryName, EntrySpec]

    def family(self, name: Family) -> FamilySpec:
        """Answer the description of one family.

        Raises
        ------
        BundleError
            The bundle does not hold it; the message lists those it holds.
        """
        for family in self.families:
            if family.name == name:
                return family
        held = ", ".join(family.name for family in self.families)
        raise BundleError(f"the bundle has no {name} family; it holds {held}")

    def variant(self, family: Family, n_steps: int, precision: Precision) -> VariantSpec:
        """Answer the variant with exactly these properties.

        Raises
        ------
        BundleError
            There is none; the message lists the steps and precisions of that family.
        """
        for variant in self.variants:
            if variant.key == (family, n_steps, precision):
                return variant
        held = ", ".join(
            f"{other.n_steps} steps {other.precision}"
            for other in self.variants
            if other.family == family
        )
        raise BundleError(
            f"the bundle has no {family} variant with {n_steps} steps in {precision}; "
            f"for {family} it holds: {held or 'nothing'}"
        )

    @property
    def default_precision(self) -> Precision:
        """The precision that is taken where none is asked for: fp32, or the first there is."""
        held = [precision.name for precision in self.precisions]
        return "fp32" if "fp32" in held else held[0]

    def to_bytes(self) -> bytes:
        """Serialise to UTF-8 JSON, the same bytes for the same content."""
        plain = self.model_dump(mode="json")
        for table in ("entries", "source_hashes", "tool_versions"):
            plain[table] = dict(sorted(plain[table].items()))
        text = json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False)
        return text.encode() + b"\n"

    @model_serializer(mode="wrap")
    def _leave_out_what_is_empty(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A bundle without engines reads as it did before there were any, to older releases too.
        document: dict[str, Any] = plain(self)
        return {
            key: value
            for key, value in document.items()
            if value or key not in ("engines", "recipe", "finetuning")
        }

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        families = {family.name: family for family in self.families}
        if len(families) != len(self.families):
            raise ValueError("a family is described twice")
        if len({variant.key for variant in self.variants}) != len(self.variants):
            raise ValueError("a variant is listed twice")
        steps = {preset.n_steps for preset in self.sampler.presets}
        precisions = {precision.name for precision in self.precisions}
        wanted = [family.golden for family in self.families if family.golden is not None]
        for variant in self.variants:
            label = f"variant {variant.graph}"
            if variant.family not in families:
                raise ValueError(f"{label} is of the undescribed family {variant.family}")
            known = {tensor.name for tensor in families[variant.family].inputs}
            if unknown := sorted(set(variant.inputs) - known):
                raise ValueError(f"{label} takes inputs its family lacks: {unknown}")
            if variant.n_steps not in steps or variant.precision not in precisions:
                raise ValueError(f"{label} has steps or a precision that nothing describes")
            passed = bool(variant.gate) and all(result.passed for result in variant.gate)
            if self.verified and not passed:
                raise ValueError(f"verified is true but {label} has not passed its gate")
            wanted += [variant.graph, *variant.weights]
        keys = {variant.key for variant in self.variants}
        for engine in self.engines:
            if (engine.family, engine.n_steps, engine.precision) not in keys:
                raise ValueError(f"an engine is of no variant: {engine.family} {engine.n_steps}")
            wanted.append(engine.pack)
        if absent := sorted(set(wanted) - self.entries.keys()):
            raise ValueError(f"entries lacks {absent}")
        return self


def parse_manifest(data: bytes, source: str) -> Manifest:
    """Read a manifest from untrusted bytes.

    Parameters
    ----------
    data
        UTF-8 JSON.
    source
        The bundle's name, for messages.

    Raises
    ------
    BundleVersionError
        The manifest has a version that this release does not know.
    BundleError
        It is not JSON, has a repeated or unknown key, NaN, or contradicts itself.
    """
    try:
        head = json.loads(data, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except (ValueError, RecursionError) as err:
        raise BundleError(f"{source}: manifest.json is not strict JSON ({err})") from err
    if not isinstance(head, dict) or head.get("format") != "ldmpir":
        raise BundleError(f"{source}: manifest.json does not say format 'ldmpir'")
    version = head.get("manifest_version")
    if version != MANIFEST_VERSION or not isinstance(version, int) or isinstance(version, bool):
        raise BundleVersionError(
            f"{source}: manifest version {version!r} is not known here (this release reads "
            f"{MANIFEST_VERSION}); upgrade with: pip install -U ldmpir-edge"
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as err:
        first = err.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "manifest"
        raise BundleError(
            f"{source}: manifest.json is invalid at {where}: {first['msg']}; export it again"
        ) from err


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key is repeated")
    return table


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")
