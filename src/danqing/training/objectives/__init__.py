"""What training can minimise: one objective a file, each with a rollout and a loss."""
