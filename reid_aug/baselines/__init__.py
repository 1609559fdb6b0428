"""Re-ID baselines: networks, how they are trained, and how their features rank a gallery."""
