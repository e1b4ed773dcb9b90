"""The networks: config and forward, nothing about files, prompts or loops."""
