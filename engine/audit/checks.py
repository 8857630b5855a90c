"""All checks, in the order of the table. A new check is a file, and a line here."""

from collections.abc import Callable

from engine.audit.copies.bad_ticks import bad_ticks
from engine.audit.copies.mirrored_splits import mirrored_splits
from engine.audit.copies.repeated_days import repeated_days
from engine.audit.copies.same_paths import same_paths
from engine.audit.copies.stale_prices import stale_prices
from engine.audit.finding import Finding
from engine.audit.population.exits import exits
from engine.audit.population.membership import membership
from engine.audit.population.moves import moves
from engine.audit.population.universe_return import universe_return
from engine.audit.sample import CacheSample

CacheCheck = Callable[[CacheSample], Finding]

# Of a cache alone. Those in QUICK take under two seconds on ten million rows; `train` runs them.
FEATURES: list[CacheCheck] = []
LABELS: list[CacheCheck] = []
POPULATION: list[CacheCheck] = [exits, universe_return, moves, membership]
COPIES: list[CacheCheck] = [same_paths, repeated_days, stale_prices, mirrored_splits, bad_ticks]
QUICK: list[CacheCheck] = [exits]
