"""The drawn world as a benchmark: items with their facts, judges of pictures, edits and texts."""
