"""What lies where in a hospital's home: the one list of its files and folders by name.

site.toml            the hospital's rules                    secret.key secret.check   the site's secret, and its check
ledger.sqlite        what was booked (with -wal, -shm)       ledger.seal ledger.lock   its length and last hash
receipt.json         the last answer that left               egress.jsonl              what left, line by line
place.json           the machine that this home belongs to   people.json               who is who
admission.json       what the last ingest found              quarantine.json           what waits for a person
paused.json          why all studies wait                    approved/                 one folder for each plan
cache/               admitted images                         keys/                     keys of rounds under way
spool/ verdicts/     finished answers                        encoder/                  encoders that stay here
evaluation/          the steward's figures                   quarantine/               pictures that a person looks at
rosters/             who shares noise with this hospital     secure/                    states of secure rounds
daemon/ identity/ logs/   see `client.daemon.home`

A name that is written down twice can be changed once. So no other module of the product holds one of these texts.
"""

RULES = "site.toml"
LEDGER, LEDGER_SEAL, LEDGER_WAL = "ledger.sqlite", "ledger.seal", "ledger.sqlite-wal"
SECRET, SECRET_CHECK = "secret.key", "secret.check"
RECEIPT, EGRESS_LOG = "receipt.json", "egress.jsonl"
PLACE, PEOPLE = "place.json", "people.json"
ADMISSION, QUARANTINE, PAUSED = "admission.json", "quarantine.json", "paused.json"

APPROVED, CACHE, KEYS = "approved", "cache", "keys"
SPOOL, VERDICTS, ENCODER = "spool", "verdicts", "encoder"
EVALUATION, QUARANTINED = "evaluation", "quarantine"
ROSTERS, SECURE = "rosters", "secure"
DAEMON, IDENTITY, LOGS = "daemon", "identity", "logs"
