"""Properties of random statements."""
