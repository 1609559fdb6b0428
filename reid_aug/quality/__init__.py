"""Image quality: protocols of papers, their metrics, and what is measured beside the images (networks, real images, the truth)."""
