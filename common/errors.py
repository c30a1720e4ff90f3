"""Every error wardround raises on purpose, and the exit code each one ends a command with.

WardroundError                 1
├── PlanError                  3   a plan file that cannot be used
├── DataError                  4   what lies in a folder cannot be used
│   ├── SourceError                an import source of unknown or broken form
│   ├── NoUsableScans              a site folder that is missing, empty or holds no image
│   ├── LabelsError                labels.csv that is missing, malformed or contradicts the cohort
│   ├── IssuerNeeded               a PatientID alone that may be of a patient kept under id and issuer
│   ├── CohortTooSmall             fewer patients than the plan's or the site's minimum
│   └── ScanRefused                one file; collected with its reason, never stops a folder
├── StateError                 5   something on disk is not what it should be
│   ├── OutputInUse                an output folder that holds something else
│   ├── CheckpointCorrupt          a checkpoint or release that fails its digest
│   ├── SignatureInvalid           a release or verdict that is altered, unsigned or signed by somebody else
│   ├── CacheCorrupt               a training cache that fails its check
│   ├── CacheMissing               there is none in the plan's form; told as CohortTooSmall (`client.egress.refusals`)
│   ├── DiskRefused                the disk or its file system refuses; nothing is damaged
│   │   ├── DiskFull                   passes once there is room
│   │   ├── FileLocked                 passes once another program lets go
│   │   ├── DiskReadOnly
│   │   ├── NotPermitted               rights, or another user than the home's owner
│   │   └── NoLocks                    a file system without locks
│   ├── HomeMoved                  a home that is not where it was bound: moved, restored or copied
│   └── LedgerCorrupt              a ledger whose chain is broken
│       └── LedgerBehind               a sound ledger that lacks an entry which something outside rests on
├── Refusal                    6   a hospital says no; the message says why and what would change it
│   ├── BudgetExhausted
│   ├── PlanRefused                not approved, other digest, outside the site's policy
│   ├── MessageRefused             a message of wrong schema, shape, type or order
│   ├── SeedRefused                a random seed outside simulation
│   ├── LimitExceeded              a request that needs more memory or time than the hospital lends
│   └── EgressRefused              something tried to leave that has no right to
├── StudyStopped               7   a study could not go on
│   ├── QuorumLost                 too few sites answered
│   │   └── SecureSumWaits             a sum under masks lacks hospitals, and stays closed until they are back
│   ├── VerdictMissing             a site has not judged the candidate, so nothing is released
│   │   └── SignerUnknown              a site judged, but no key of its verdicts was enrolled
│   └── GateFailed                 a site's verdict on the candidate is no
│       ├── FidelityTooLow             too few held-out patients look like anything the generator draws
│       ├── UtilityTooLow              what is learnt from the images does not hold for held-out patients
│       └── MemorisationFound          training patients are nearer to the images than held-out ones are
└── Interrupted              130   a person ended the command by Ctrl-C

Exit code 2 is the command line's own (unknown option), 0 is success; `wardround doctor` ends with 8 for warnings and
9 for failures.
A message says what was asked, what is true and what to do next, on one line, without any patient identifier.
"""


class WardroundError(Exception):
    """Root of everything wardround raises on purpose."""

    exit_code = 1


class PlanError(WardroundError):
    """A study plan that cannot be used: unknown key, wrong type or impossible value."""

    exit_code = 3


class DataError(WardroundError):
    """Something in a data folder cannot be used."""

    exit_code = 4


class SourceError(DataError):
    """An import source of unknown or broken form."""


class NoUsableScans(DataError):
    """A site folder that is missing, empty, or holds no image that can be used."""


class LabelsError(DataError):
    """A label file that is missing, malformed, or contradicts the cohort."""


class IssuerNeeded(DataError):
    """A PatientID alone names no patient, but with its issuer it may be that of one who has left the cache."""


class CohortTooSmall(DataError):
    """Fewer patients than the plan or the site's policy asks for."""


class ScanRefused(DataError):
    """One file is not admitted.

    Attributes:
        reason: One of the short reason codes listed in `client.dicom.reader`, safe to count and to show.
    """

    def __init__(self, reason: str, message: str = "") -> None:
        self.reason = reason
        super().__init__(message or reason)


class StateError(WardroundError):
    """Something on disk is not what it should be."""

    exit_code = 5


class OutputInUse(StateError):
    """The output folder holds something else; nothing was overwritten."""


class CheckpointCorrupt(StateError):
    """A checkpoint or release file fails its digest or its schema."""


class SignatureInvalid(StateError):
    """A release or a verdict is altered, unsigned, or signed by another key than the trusted one."""


class CacheCorrupt(StateError):
    """A training cache that is half there or fails its check."""


class CacheMissing(StateError):
    """There is no training cache, or none in the form that a plan asks for; nothing is damaged."""


class DiskRefused(StateError):
    """The disk or its file system refuses to read or write; nothing is damaged."""


class DiskFull(DiskRefused):
    """There is no room left; it passes."""


class FileLocked(DiskRefused):
    """Another program holds the file; it passes."""


class DiskReadOnly(DiskRefused):
    """The file system is mounted read-only."""


class NotPermitted(DiskRefused):
    """This user may not write there, or is not the home's owner."""


class NoLocks(DiskRefused):
    """The file system gives no locks, as some network file systems do not."""


class HomeMoved(StateError):
    """A site's home is not where it was bound: it was moved, restored or copied."""


class LedgerCorrupt(StateError):
    """The privacy ledger's hash chain is broken."""


class LedgerBehind(LedgerCorrupt):
    """The ledger is sound, but lacks an entry that something outside it rests on."""


class Refusal(WardroundError):
    """A hospital says no."""

    exit_code = 6


class BudgetExhausted(Refusal):
    """The request would pass the study's or the site's privacy budget."""


class PlanRefused(Refusal):
    """The plan is not approved here, has another digest, or lies outside the site's policy."""


class MessageRefused(Refusal):
    """A message of wrong schema, shape, type, size or order."""


class SeedRefused(Refusal):
    """A random seed was asked for outside simulation."""


class LimitExceeded(Refusal):
    """A request needs more memory or time than the hospital lends to one request."""


class EgressRefused(Refusal):
    """Something tried to leave the site that has no right to."""


class StudyStopped(WardroundError):
    """A study could not go on."""

    exit_code = 7


class QuorumLost(StudyStopped):
    """Too few sites answered a round."""


class SecureSumWaits(QuorumLost):
    """Too few hospitals took part in a leg of a secure round; the sum stays closed until they are back."""


class VerdictMissing(StudyStopped):
    """A site has not judged the candidate, so nothing is released."""


class SignerUnknown(VerdictMissing):
    """No key that a site signs its verdicts with was recorded when it was enrolled, so none of them counts."""


class GateFailed(StudyStopped):
    """A site's verdict on the candidate is no."""


class FidelityTooLow(GateFailed):
    """Too few held-out patients look like anything that the generator draws."""


class UtilityTooLow(GateFailed):
    """What a classifier learns from the synthetic images does not hold for held-out patients."""


class MemorisationFound(GateFailed):
    """Patients it was trained on are nearer to the synthetic images than held-out patients are."""


class Interrupted(WardroundError):
    """A person ended the command by Ctrl-C; the exit code is the shells' own for it."""

    exit_code = 130


def by_name(name: str) -> type[WardroundError]:
    """Return the error class called `name`; `WardroundError` itself for an unknown name.

    Error *types* may cross the wire, their texts may not; this is how the server reads them.
    """
    pending: list[type[WardroundError]] = [WardroundError]
    while pending:
        kind = pending.pop()
        if kind.__name__ == name:
            return kind
        pending.extend(kind.__subclasses__())
    return WardroundError
