"""What must stay true of the repository itself."""
