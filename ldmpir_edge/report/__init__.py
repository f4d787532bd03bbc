"""Image metrics and figures."""
