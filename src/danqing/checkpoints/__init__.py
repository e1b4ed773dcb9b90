"""The shipped checkpoints, each a folder in the released layout."""
