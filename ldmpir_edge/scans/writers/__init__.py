"""Writers: one module an output format; `ldmpir_edge.scans.write` chooses among them."""
