"""Every planted fault. A new one is an entry of its file's list."""

from tests.audit.faults.copies import FAULTS_OF_COPIES
from tests.audit.faults.fault import Fault
from tests.audit.faults.features import FAULTS_OF_FEATURES
from tests.audit.faults.labels import FAULTS_OF_LABELS
from tests.audit.faults.population import FAULTS_OF_POPULATION
from tests.audit.faults.run import FAULTS_OF_RUN
from tests.audit.faults.scores import FAULTS_OF_SCORES
from tests.audit.faults.selection import FAULTS_OF_SELECTION
from tests.audit.faults.truncation import FAULTS_OF_TRUNCATION

FAULTS: list[Fault] = [
    *FAULTS_OF_FEATURES,
    *FAULTS_OF_LABELS,
    *FAULTS_OF_POPULATION,
    *FAULTS_OF_COPIES,
    *FAULTS_OF_TRUNCATION,
    *FAULTS_OF_SCORES,
    *FAULTS_OF_RUN,
    *FAULTS_OF_SELECTION,
]
