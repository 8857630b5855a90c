"""The command line: a file per command, registered in app.py."""
