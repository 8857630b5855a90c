"""Checks of which codes are there, and when: exits, the universe, and what returns say of them."""
