"""The .ldmpir artefact: one signed, hashed file with everything an engine needs."""

from ldmpir_edge.bundle.archive import Archive, describe_entries, write_bundle
from ldmpir_edge.bundle.engines import BuildRecipe, EngineSpec, TypicalScan, pack_engines
from ldmpir_edge.bundle.finetuning import FinetuningSpec
from ldmpir_edge.bundle.golden import GoldenPair, pack_golden
from ldmpir_edge.bundle.manifest import MANIFEST_VERSION, Manifest
from ldmpir_edge.bundle.schema import (
    EntrySpec,
    FamilySpec,
    GateResult,
    ModelInfo,
    Precision,
    PrecisionSpec,
    SamplerPreset,
    SamplerSpec,
    SizeLimits,
    TensorSpec,
    VariantSpec,
)
from ldmpir_edge.bundle.signing import Trust, generate_key, load_signing_key
from ldmpir_edge.bundle.store import (
    Bundle,
    LoadedVariant,
    find_bundle,
    open_bundle,
    packaged_bundles,
)

__all__ = [
    "MANIFEST_VERSION",
    "Archive",
    "BuildRecipe",
    "Bundle",
    "EngineSpec",
    "EntrySpec",
    "FamilySpec",
    "FinetuningSpec",
    "GateResult",
    "GoldenPair",
    "LoadedVariant",
    "Manifest",
    "ModelInfo",
    "Precision",
    "PrecisionSpec",
    "SamplerPreset",
    "SamplerSpec",
    "SizeLimits",
    "TensorSpec",
    "Trust",
    "TypicalScan",
    "VariantSpec",
    "describe_entries",
    "find_bundle",
    "generate_key",
    "load_signing_key",
    "open_bundle",
    "pack_engines",
    "pack_golden",
    "packaged_bundles",
    "write_bundle",
]
