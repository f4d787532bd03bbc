"""The one exception tree of ldmpir-edge and the exit code that each branch maps to.

A message says what is wrong, the value received and the way out, in one line. The command
line prints it without a traceback and exits with ``exit_code``.
"""

from __future__ import annotations


class LdmpirError(Exception):
    """Base of every error that ldmpir-edge raises on purpose."""

    exit_code = 1


class UsageError(LdmpirError):
    """The request itself is contradictory or names something that does not exist."""

    exit_code = 2


class ScanError(LdmpirError):
    """A scan cannot be read or does not hold what its format promises."""

    exit_code = 10


class ScanFormatError(ScanError):
    """The file is truncated, not of a known format, or lacks a required data set."""

    exit_code = 11


class ScanDataError(ScanError):
    """The file is well formed but its values cannot be used (NaN, no coils, empty mask)."""

    exit_code = 12


class ShapeError(LdmpirError):
    """Array shapes do not fit together; the message prints them."""

    exit_code = 13


class UnsupportedSizeError(LdmpirError):
    """The scan is larger or smaller than the bundle's stated range."""

    exit_code = 14


class BundleError(LdmpirError):
    """A .ldmpir bundle cannot be opened or lacks what was asked of it."""

    exit_code = 20


class BundleTamperedError(BundleError):
    """A hash or a signature in the bundle does not match its content."""

    exit_code = 21


class BundleVersionError(BundleError):
    """The bundle's manifest has a version that this release does not know."""

    exit_code = 22


class OutputError(LdmpirError):
    """An output cannot be written (permission, full disk, existing folder in the way)."""

    exit_code = 30


class BackendError(LdmpirError):
    """An engine failed to load or to run."""

    exit_code = 40


class MissingExtraError(LdmpirError):
    """An optional dependency is absent; the message names the pip command that brings it."""

    exit_code = 41

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an extra: pip install 'ldmpir-edge[{extra}]'")
        self.feature = feature
        self.extra = extra


class GateError(LdmpirError):
    """An exported variant changed the image beyond the limits and was refused."""

    exit_code = 50


class NotEnoughScansError(LdmpirError):
    """Too few scans are collected to fine-tune on, or none since the last run; try again later."""

    exit_code = 52


class NothingPromotedError(LdmpirError):
    """No promotion can be taken back: the configured bundle serves."""

    exit_code = 53


class OverloadError(LdmpirError):
    """The appliance takes no more now: its queue or its disk is full; try again later."""

    exit_code = 60


class StateError(LdmpirError):
    """The appliance's state folder cannot be used: in use, damaged or not writable."""

    exit_code = 61


class SealError(LdmpirError):
    """A collected scan or its key cannot be used: damaged, of another key, or open to others."""

    exit_code = 62
