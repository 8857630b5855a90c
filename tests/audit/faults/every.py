"""Every planted fault. A new one is an entry of its file's list."""

from tests.audit.faults.fault import Fault
from tests.audit.faults.run import FAULTS_OF_RUN
from tests.audit.faults.scores import FAULTS_OF_SCORES

FAULTS: list[Fault] = [*FAULTS_OF_SCORES, *FAULTS_OF_RUN]
