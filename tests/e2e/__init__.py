"""The programs as users run them."""
