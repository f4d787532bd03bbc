"""Copies of the bundles in service, for a worker that starts while a route's own file is broken."""

from __future__ import annotations

import logging
from pathlib import Path

from ldmpir_edge.atomic import make_folder
from ldmpir_edge.bundle import Bundle, open_bundle
from ldmpir_edge.errors import BundleError, OutputError

_log = logging.getLogger(__name__)


class KeptBundles:
    """One copy a route, of what served it last.

    Parameters
    ----------
    folder
        Created with the first copy.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, route: str) -> Path:
        """Answer where a route's copy is, or would be."""
        return self._folder / f"{route}.ldmpir"

    def keep(self, route: str, bundle: Bundle) -> None:
        """Copy a bundle that now serves a route; a disk without room costs the copy alone."""
        target = self.path(route)
        try:
            if open_bundle(target).digest == bundle.digest:
                return
        except BundleError:
            pass  # there is none so far, or it is damaged
        try:
            make_folder(self._folder)
            bundle.save(target)
        except (BundleError, OutputError) as err:
            _log.warning(
                "no copy of a bundle in service could be kept",
                extra={"route": route, "error": type(err).__name__},
            )
