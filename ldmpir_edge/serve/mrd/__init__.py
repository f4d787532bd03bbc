"""The MRD door: acquisitions in, images back on the same connection."""
