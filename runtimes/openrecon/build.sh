#!/usr/bin/env bash
# Build the MRD image with its label. From the root of the checkout, after building runtimes/oci:
#   runtimes/openrecon/build.sh [podman|docker]
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
label=$(base64 -w 0 "$here/label.json")
"${1:-podman}" build -t ldmpir-edge-openrecon \
  --label "com.siemens-healthineers.magneticresonance.openrecon.metadata:1.1.0=$label" \
  -f "$here/Containerfile" "$here"
