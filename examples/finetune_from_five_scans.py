"""Adapt the model to a site from five undersampled scans, without references.

    python examples/finetune_from_five_scans.py OUT [SCAN SCAN SCAN SCAN SCAN]

Minutes, on two cores. Where the held-out measurements show no gain the base is kept, and there is
no bundle: docs/finetuning.md says how that is judged. Needs ldmpir-edge[train,export] and the
repository's models/.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ldmpir_edge.scans.sample import write_sample

BASE_KEPT = 51  # the command's exit code

out = Path(sys.argv[1])
scans = [Path(name) for name in sys.argv[2:]]
if not scans:
    # Stand for your own: five heads, each with coils of its own.
    scans = [
        write_sample("mri", out / f"patient{n}", seed=n).rename(out / f"scan{n}.h5")
        for n in range(5)
    ]

bundle = out / "site.ldmpir"
command = ["ldmpir-edge", "finetune", *scans, "--base", "ldmpir-2m", "-o", bundle]
code = subprocess.run(command, check=False).returncode
if code == BASE_KEPT:
    print("nothing to gain here: ldmpir-2m goes on serving")
elif code:
    sys.exit(code)
else:
    # Look before you put it in service.
    page = ["--report", out / "site.html"]
    subprocess.run(["ldmpir-edge", "compare", "ldmpir-2m", bundle, scans[0], *page], check=True)
