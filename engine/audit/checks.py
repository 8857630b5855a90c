"""All checks, in the order of the table. A new check is a file, and a line here."""

from collections.abc import Callable

from engine.audit.copies.bad_ticks import bad_ticks
from engine.audit.copies.mirrored_splits import mirrored_splits
from engine.audit.copies.repeated_days import repeated_days
from engine.audit.copies.same_paths import same_paths
from engine.audit.copies.stale_prices import stale_prices
from engine.audit.features.event_study import event_study
from engine.audit.features.extreme_moves import extreme_moves
from engine.audit.features.lag_profile import lag_profile
from engine.audit.features.life_maximum import life_maximum
from engine.audit.features.life_mean import life_mean
from engine.audit.finding import Finding
from engine.audit.labels.clipping import clipping
from engine.audit.labels.compounding import compounding
from engine.audit.labels.horizon import horizon
from engine.audit.labels.start import start
from engine.audit.population.exits import exits
from engine.audit.population.membership import membership
from engine.audit.population.moves import moves
from engine.audit.population.universe_return import universe_return
from engine.audit.run.future import future
from engine.audit.run.splits import splits
from engine.audit.run.trained import Trained
from engine.audit.run.tuning import tuning
from engine.audit.sample import CacheSample
from engine.audit.scores.codes import codes
from engine.audit.scores.concentration import concentration
from engine.audit.scores.delay import delay
from engine.audit.scores.foresight import foresight
from engine.audit.scores.in_sample import in_sample
from engine.audit.scores.own_close import own_close
from engine.audit.scores.scored import ScoredCache
from engine.audit.scores.shuffles import shuffles

CacheCheck = Callable[[CacheSample], Finding]
ScoreCheck = Callable[[ScoredCache], Finding]
RunCheck = Callable[[Trained], Finding]

# Of a cache alone.
FEATURES: list[CacheCheck] = [lag_profile, extreme_moves, event_study, life_maximum, life_mean]
LABELS: list[CacheCheck] = [start, horizon, compounding, clipping]
POPULATION: list[CacheCheck] = [exits, universe_return, moves, membership]
COPIES: list[CacheCheck] = [same_paths, repeated_days, stale_prices, mirrored_splits, bad_ticks]

# Of scores beside their cache.
SCORES: list[ScoreCheck] = [in_sample, shuffles, codes, delay, foresight, own_close, concentration]

# Of a run, or a walk of folds; its scores are checked too.
RUN: list[RunCheck] = [splits, tuning, future]
