"""What was known then against what is said now: a cache against one of an earlier date."""
