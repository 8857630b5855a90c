"""Every planted fault. A new one is an entry of its file's list."""

from tests.audit.faults.fault import Fault
from tests.audit.faults.features import FAULTS_OF_FEATURES
from tests.audit.faults.labels import FAULTS_OF_LABELS

FAULTS: list[Fault] = [
    *FAULTS_OF_FEATURES,
    *FAULTS_OF_LABELS,
]
