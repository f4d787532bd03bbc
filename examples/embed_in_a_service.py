"""An HTTP service around one loaded bundle, with nothing but the standard library.

    python examples/embed_in_a_service.py [PORT]
    curl --data-binary @scan.h5 http://127.0.0.1:8765/ -o image.npy

One scan at a time, nothing kept: `ldmpir-edge serve` queues, retries and delivers.
"""

from __future__ import annotations

import io
import sys
import tempfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np

import ldmpir_edge
from ldmpir_edge.errors import LdmpirError

MAX_BYTES = 2**30
reconstruct = ldmpir_edge.load("ldmpir-2m")


class Handler(BaseHTTPRequestHandler):
    """Takes a scan as the body of a POST and answers an NPY file `(slices, H, W)`."""

    def do_POST(self) -> None:
        """Reconstruct the body."""
        size = int(self.headers.get("Content-Length") or 0)
        if not 0 < size <= MAX_BYTES:
            self.send_error(413, f"send a scan of at most {MAX_BYTES} bytes, with its length")
            return
        with tempfile.TemporaryDirectory() as folder:
            scan = Path(folder) / "scan"
            scan.write_bytes(self.rfile.read(size))
            try:
                result = reconstruct(scan)
            except LdmpirError as err:
                self.send_error(422, str(err).replace(folder, ""))
                return
        answer = io.BytesIO()
        np.save(answer, result.image)
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(answer.tell()))
        # A slice whose checks failed holds the classical image: the caller must be told.
        self.send_header("X-Fallbacks", str(sum(bool(c["fallback"]) for c in result.checks)))
        self.end_headers()
        self.wfile.write(answer.getvalue())


if __name__ == "__main__":
    with HTTPServer(("127.0.0.1", int(sys.argv[1]) if sys.argv[1:] else 8765), Handler) as server:
        print(f"http://127.0.0.1:{server.server_port}/", flush=True)
        server.serve_forever()
