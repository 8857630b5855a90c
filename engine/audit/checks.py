"""All checks, in the order of the table. A new check is a file, and a line here."""

from collections.abc import Callable

from engine.audit.finding import Finding
from engine.audit.sample import CacheSample

CacheCheck = Callable[[CacheSample], Finding]

# Of a cache alone. Those in QUICK take under two seconds on ten million rows; `train` runs them.
FEATURES: list[CacheCheck] = []
LABELS: list[CacheCheck] = []
POPULATION: list[CacheCheck] = []
COPIES: list[CacheCheck] = []
QUICK: list[CacheCheck] = []
