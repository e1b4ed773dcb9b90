"""One module at a time, on small real classes."""
