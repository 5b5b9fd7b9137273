"""Ray as this project uses it: pools as resource requests, connecting, capacity, and submitting jobs."""
