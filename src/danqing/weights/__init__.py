"""From bytes on disk to modules on devices, and back."""
