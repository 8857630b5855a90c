"""What a user sees: the console of every command, its streams, and how a command ends."""
