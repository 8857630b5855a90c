"""Tests of comparisons of a cache with one of an earlier date."""
