"""`python -m ldmpir_edge.cli`."""

from __future__ import annotations

from ldmpir_edge.cli.app import main

if __name__ == "__main__":
    main()
