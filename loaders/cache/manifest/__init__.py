"""What manifest.json says of a cache, and how it is read without trusting it."""
