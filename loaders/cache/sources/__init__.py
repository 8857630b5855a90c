"""Files of any supported kind, read as one table of dates, codes and numbers."""
