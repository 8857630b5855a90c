"""What users bring: objects found by name, and their terms of the loss. Networks of their own are in model/own.py."""
