"""One task a file, as numbered steps."""
