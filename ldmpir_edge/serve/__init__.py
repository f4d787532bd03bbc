"""The appliance: receive scans beside a scanner, reconstruct them, deliver images, survive."""
