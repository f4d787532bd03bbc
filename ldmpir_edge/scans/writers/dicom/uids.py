"""Unique identifiers that follow from the input and the settings, so that a rerun replaces.

A viewer or archive treats equal SOP Instance UIDs as one image: they must be equal when the same
scan is reconstructed again in the same way, and different when anything that shapes the pixels
differs: an archive may keep the first of two images of one name, as when a scan whose classical
image was delivered is sent again. The engine and the clock do not shape them and stay out.
"""

from __future__ import annotations

from pydicom.uid import UID, generate_uid

from ldmpir_edge.scans.reconstruction import Provenance

UID_ROOT = "1.2.826.0.1.3680043.8.498."
"""pydicom's public root; 38 digits of a SHA-512 follow it. A vendor puts its own here."""

IMPLEMENTATION_CLASS_UID = generate_uid(UID_ROOT, ["ldmpir-edge", "implementation class"])
IMPLEMENTATION_VERSION_NAME = "LDMPIR_EDGE"


def series_uid(made: Provenance) -> UID:
    """Name the series of one way of reconstructing one scan."""
    return _uid("series", made.input_sha256, *_settings(made))


def instance_uid(made: Provenance, index: int, *, classical: bool) -> UID:
    """Name slice `index` of `series_uid(made)`, the model's or the classical image."""
    kind = "classical instance" if classical else "instance"
    return _uid(kind, made.input_sha256, *_settings(made), str(index))


def study_uid(made: Provenance) -> UID:
    """Name the study of a scan that has none: one for every reconstruction of the same input."""
    return _uid("study", made.input_sha256)


def frame_of_reference_uid(made: Provenance) -> UID:
    """Name the coordinate system of a scan that has none, shared like its study."""
    return _uid("frame of reference", made.input_sha256)


def _settings(made: Provenance) -> list[str]:
    return [
        *(made.software_version, made.bundle_sha256, made.purpose, made.precision),
        *(str(made.n_steps), str(made.seed)),
    ]


def _uid(*entropy: str) -> UID:
    # generate_uid joins its sources: a separator keeps ("a", "bc") apart from ("ab", "c").
    return generate_uid(UID_ROOT, ["\n".join(entropy)])
