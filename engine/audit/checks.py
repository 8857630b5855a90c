"""All checks, in the order of the table. A new check is a file, and a line here."""

from collections.abc import Callable

from engine.audit.finding import Finding
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

# Of a cache alone. Those in QUICK take under two seconds on ten million rows; `train` runs them.
FEATURES: list[CacheCheck] = []
LABELS: list[CacheCheck] = []
POPULATION: list[CacheCheck] = []
COPIES: list[CacheCheck] = []
QUICK: list[CacheCheck] = []

# Of scores beside their cache.
SCORES: list[ScoreCheck] = [in_sample, shuffles, codes, delay, foresight, own_close, concentration]

# Of a run, or a walk of folds; its scores are checked too.
RUN: list[RunCheck] = [splits, tuning, future]
