"""Fine-tuning on a site's own scans, without references where there are none."""
