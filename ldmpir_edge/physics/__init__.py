"""Acquisition models (Cartesian MRI, Radon, inpainting, super-resolution) and their noise."""
