"""Several processes give what one gives."""
