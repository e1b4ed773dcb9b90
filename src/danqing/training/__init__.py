"""One loop, and what it can minimise."""
