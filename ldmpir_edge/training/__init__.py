"""Training of LDM-PIR: image sources, simulated acquisitions, losses and the loop."""
