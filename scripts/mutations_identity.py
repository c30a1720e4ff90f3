"""The guards of who is who, who is set aside, and of the caches: how to take each out, and who must notice."""

from mutation import Mutation

_WHO, _PEOPLE = "tests/client/test_who_is_who.py", "tests/client/test_people.py"


def _guard(name: str, file: str, old: str, new: str, *tests: str) -> Mutation:
    return Mutation(name=f"identity: {name}", file=file, old=old, new=new, tests=tests)


IDENTITY = [
    _guard("an HL7 CX is one long id", "client/patient_ids.py",
           "if len(parts) < 2 or not _is_cx(parts):", "if True:", _WHO),
    _guard("a name with hats is an HL7 CX", "client/patient_ids.py",
           "if len(parts) < 2 or not _is_cx(parts):", "if len(parts) < 2:", _WHO),
    _guard("the case of an issuer counts", "client/patient_ids.py",
           '" ".join(name.replace("\\0", " ").split()).upper()', '" ".join(name.replace("\\0", " ").split())', _WHO),
    _guard("undecodable ids collide", "client/patient_ids.py",
           "if REPLACEMENT not in text or REPLACEMENT.encode() in raw:", "if True:", _WHO),
    _guard("an id whose letters were lost is let in", "client/admission/screening.py",
           "    if patient.damaged:\n", "    if False:\n", _WHO),
    _guard("an id with and without issuer is two patients", "client/admission/persons.py",
           "            if bare in ids:", "            if False:", _WHO),
    _guard("two issuers in one header are two patients", "client/admission/persons.py",
           '        self._join({keys.full, keys.second} - {""})', "        pass", _WHO),
    _guard("merges.csv joins two issuers' persons", "client/admission/persons.py",
           "        if unclear:", "        if False:", _WHO),
    _guard("merges.csv misses the one issuer of an id", "client/admission/persons.py",
           " | (known if side.full == side.bare else set())", "", _WHO),
    _guard("a patient's UIDs take files from another", "client/admission/cohort.py",
           "(patient, record.uid) in uids:", "record.uid in {uid for _, uid in uids}:",
           _WHO, "tests/attacks/test_uid_clash.py"),
    _guard("a UID of two patients is shown to nobody", "client/admission/cohort.py",
           "        if len({patient for patient, _ in same}) > 1:", "        if False:", _WHO),
    _guard("a file that a human dropped stays in", "client/admission/cohort.py",
           "if not record.reason and decided.of(record.decided_by) == \"drop\":", "if False:", _WHO),
    _guard("several people under one id are not told", "client/admission/persons.py",
           ' - {""}) > 1 for trait in', ' - {""}) > 9 for trait in', _WHO),
    _guard("a placeholder is not told", "client/admission/batch.py",
           "        Doubt.PLACEHOLDER_ID: patient.placeholder,\n", "", _WHO),
    _guard("a person with a new id is drawn anew", "client/people.py",
           "draws = frozenset[str]().union(*(item.draws for item in before)) or frozenset({person.key})",
           "draws = frozenset({person.key})", _PEOPLE, "tests/attacks/test_held_out_moves.py"),
    _guard("an id that an issuer is added to is another person", "client/people.py",
           "related |= of_id.get(bare, set()) if key == bare else {bare}",
           "related |= of_id.get(bare, set()) if key == bare else set()", _PEOPLE),
    _guard("an id that an issuer is taken from is another person", "client/people.py",
           "related |= of_id.get(bare, set()) if key == bare else {bare}",
           "related |= set() if key == bare else {bare}", _PEOPLE),
    _guard("keys of an earlier version are forgotten", "client/people.py",
           "        related = {*person.ids, *person.was}", "        related = {*person.ids}", _PEOPLE),
    _guard("who was there before the memory is forgotten", "client/admission/ingest.py",
           "met_before(context.home), found", "[], found", _PEOPLE),
    _guard("the draw is not asked for who is set aside", "client/held_out.py",
           "for draw in known.draws(key)):", "for draw in (key,)):", _PEOPLE),
    _guard("one who trained is set aside once merged", "client/held_out.py",
           "        elif known.kin(key).isdisjoint(seen):", "        else:", _PEOPLE),
    _guard("a verdict's cohort counts as trained", "client/held_out.py",
           " and row.phase != VERDICT]", "]", "tests/client/test_verdict.py"),
    _guard("who withdrew comes back under another id", "client/consent.py",
           "if not people.names(key).isdisjoint(keys)}", "if key in keys}", _PEOPLE),
    _guard("the ids of a person who withdrew are not marked", "client/consent.py",
           "    ledger.withdraw([keys.full, *sorted(met)])", "    ledger.withdraw([keys.full])", _PEOPLE,
           "tests/client/test_consent.py"),
    _guard("a memory that is lost is made anew", "client/people.py",
           "        if not path.exists() and not expected:", "        if not path.exists():", _PEOPLE),
]  # fmt: skip
