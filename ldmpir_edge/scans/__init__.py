"""Scans: readers of every input format, preparation of raw data, and writers of images."""
