"""From what a user gives to what the denoiser sees."""
