"""Live systems over vendors' client libraries, and a pipeline of diffusers; each library is an extra."""
