"""What the file system is asked for: names that survive a loss of power, and locks."""
