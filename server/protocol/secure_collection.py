"""One round under masks: keys, masked replies, one set that is signed, shares that open its sum; each leg on disk."""

import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TypeVar

from common.errors import EgressRefused, MessageRefused, SecureSumWaits, StateError, StudyStopped
from common.mechanism.masked_sum import BOXES, COMMITMENT
from common.model.weights import digest
from common.plan.schedule import Round
from common.secure.attempt import MOST_ATTEMPTS, SIGNATURE_BYTES, Attempt, KeyBook, Table, pack, unpack
from common.secure.masks import BOX_BYTES, KEY_BYTES, Words, require_public
from common.secure.opening import opened
from common.wire.messages import Refused, TrainReply
from common.wire.secure_messages import (
    ConfirmReply,
    ConfirmRequest,
    KeyReply,
    KeyRequest,
    MaskedRequest,
    RevealReply,
    RevealRequest,
)
from server.aggregation import quarantine
from server.aggregation.masked_sum import MaskedSum
from server.aggregation.quarantine import MALFORMED, OTHER_SITE, Quarantined
from server.mechanism.half import Total
from server.protocol.exchange import Answer, Exchange, Question
from server.protocol.polling import Asking
from server.protocol.roster import AWAY, Roster
from server.study import attempts
from server.study.attempts import ASKED_AGAIN, BOOK, MEMBERS, REVEALS, SIGNATURES, AttemptFiles
from server.study.reminders import Reminders
from server.study.study import Receipt, Study

log = logging.getLogger(__name__)

_Heard = TypeVar("_Heard", KeyReply, TrainReply, ConfirmReply, RevealReply)

_ENDS = frozenset(kind.__name__ for kind in (MessageRefused, EgressRefused, StateError))
"""Refusals that a site repeats as long as the attempt lasts: a resume then begins the next attempt."""


class SecureCollection:
    """A round of a plan that shares its noise (docs/decisions/0014). It outlives the process: its legs are on disk.

    Attributes:
        replied: Receipt by site name, of those whose numbers came; after the train leg of the members of the set alone.
        missing: Reason by site name for every hospital of the roster that is not in the round.
    """

    def __init__(self, study: Study, exchange: Exchange, roster: Roster, step: Round) -> None:
        self._study, self._exchange, self._roster, self._step = study, exchange, roster, step
        self._members = attempts.roster_of(study.folder, study.plan)
        self._files, number = AttemptFiles.latest(study.folder, step.number)
        if number > MOST_ATTEMPTS:
            raise StudyStopped(f"round {step.number} of study {study.plan.name!r} failed {MOST_ATTEMPTS} times")
        self._attempt = Attempt(plan=study.plan.digest, roster=self._members, terms=study.plan.aggregation.terms,
                                round=step.number, attempt=number)  # fmt: skip
        self._sum = MaskedSum(study.plan, step, study.weights)
        self._reminders, self._weights = Reminders(study), digest(study.weights)
        self.replied: dict[str, Receipt] = {}
        self.missing: dict[str, str] = {}

    def collect(self) -> None:
        """Bring the round to where its sum is open.

        Raises:
            SecureSumWaits: Too few hospitals took part in a leg. Nothing was opened; it goes on when the study is
                resumed, at no new cost unless the log says that a new attempt is begun.
            StudyStopped: The shares open nothing.
        """
        book, key_boxes = self._keys()
        commitments, boxes = self._train(book, key_boxes)
        statement = self._attempt.statement(book=book.digest, weights=self._weights, commitments=commitments)
        signatures = self._confirm(commitments, statement)
        revealed = self._reveal(commitments, signatures, boxes)
        self._sum.opened(self._opened(book, commitments, revealed))
        absent = set(self._members.names) - set(self.replied)
        self.missing = {name: self.missing.get(name, AWAY) for name in absent}

    def _opened(self, book: KeyBook, commitments: Table, revealed: dict[int, tuple[Table, Table]]) -> Words:
        """The sum without its masks. Shares that do not fit are asked for once more; then the attempt has failed.

        A share may have been spoilt on its way, or its hospital may give a wrong one each time.
        """
        try:
            return opened(self._attempt, book, self._sum.masked, weights=self._weights, commitments=commitments,
                          revealed=revealed)  # fmt: skip
        except StudyStopped:
            if self._files.tables(ASKED_AGAIN) is not None:
                self._files.fail()
            self._files.keep(ASKED_AGAIN, {})
            for name in (REVEALS, SIGNATURES):
                self._files.drop(name)
            raise

    def join(self) -> Total:
        """What the members' numbers come to.

        Raises:
            StudyStopped: It is none that honest hospitals could have made.
        """
        return self._sum.join()

    def close(self) -> None:
        """Remove what was kept of the round; call once its checkpoint is saved."""
        attempts.forget(self._study.folder, self._step.number)

    def _keys(self) -> tuple[KeyBook, dict[int, Table]]:
        """Leg 1: the key book, and each hospital's boxes by receiver."""
        kept = self._files.tables(BOOK)
        if kept is None:
            entries: Table = {}
            boxes: dict[str, Table] = {}

            def hear(place: int, reply: KeyReply) -> None:
                if len(reply.public) != KEY_BYTES or len(reply.signature) != SIGNATURE_BYTES:
                    raise MessageRefused("a round key or its signature has another length")
                self._attempt.verify(self._attempt.key_claim(place, reply.public), reply.signature, place=place,
                                     what="the round key")  # fmt: skip
                require_public(reply.public, whose=self._members.names[place])
                boxes[str(place)] = self._table(reply.boxes, BOX_BYTES)
                entries[place] = reply.public + reply.signature

            question = KeyRequest(plan=self._attempt.plan, round=self._step.number, attempt=self._attempt.attempt)
            self._leg("keys", KeyReply, lambda _: question, hear, among=self._members.names,
                      least=self._attempt.terms.least, have=entries)  # fmt: skip
            kept = {"entries": entries, **boxes}
            self._files.keep(BOOK, kept)
        return KeyBook(kept["entries"]), {int(place): table for place, table in kept.items() if place != "entries"}

    def _train(self, book: KeyBook, key_boxes: dict[int, Table]) -> tuple[Table, dict[int, Table]]:
        """Leg 2: the masked numbers; returns the members' commitments, and their boxes by sender."""
        members = self._files.tables(MEMBERS)
        found = {place: self._taken(place, reply) for place, reply in self._files.replies().items()
                 if members is None or place in members[MEMBERS]}  # fmt: skip
        if members is None:
            asked = MaskedRequest(plan=self._attempt.plan, round=self._step.number, attempt=self._attempt.attempt,
                                  book=book.to_bytes(), boxes=b"", arrays=self._study.weights)  # fmt: skip

            def question(name: str) -> MaskedRequest:
                mine = _for(self._members.place(name), key_boxes, book.places)
                return replace(asked, boxes=mine, last_head=self._reminders.to_send(name))

            def hear(place: int, reply: TrainReply) -> None:
                self._sum.check(reply)
                self._files.keep_reply(place, reply)
                found[place] = self._taken(place, reply)

            there = [self._members.names[place] for place in book.places if place not in found]
            self._leg("masked numbers", TrainReply, question, hear, among=there, least=self._attempt.terms.least,
                      have=found, book=book)  # fmt: skip
            self._files.keep(MEMBERS, {MEMBERS: {place: commitment for place, (commitment, _) in found.items()}})
        return {p: commitment for p, (commitment, _) in found.items()}, {p: boxes for p, (_, boxes) in found.items()}

    def _taken(self, place: int, reply: TrainReply) -> tuple[bytes, Table]:
        """Add a reply that was checked and kept; returns its commitment and its boxes by receiver."""
        self._sum.add(reply)
        name = self._members.names[place]
        self.replied[name] = Receipt(update=digest(reply.arrays), epsilon=reply.epsilon, ledger_head=reply.ledger_head)
        table = reply.arrays[BOXES]
        boxes = {receiver: table[receiver].tobytes() for receiver in range(len(table)) if receiver != place}
        return reply.arrays[COMMITMENT].tobytes(), boxes

    def _confirm(self, commitments: Table, statement: dict[str, object]) -> Table:
        """Leg 3: signatures on the one set."""
        kept = self._files.tables(SIGNATURES)
        if kept is not None:
            return kept[SIGNATURES]
        signatures: Table = {}
        question = ConfirmRequest(plan=self._attempt.plan, round=self._step.number, attempt=self._attempt.attempt,
                                  commitments=pack(commitments))  # fmt: skip

        def hear(place: int, reply: ConfirmReply) -> None:
            self._attempt.verify(statement, reply.signature, place=place, what="the set")
            signatures[place] = reply.signature

        members = [self._members.names[place] for place in commitments]
        self._leg("signatures", ConfirmReply, lambda _: question, hear, among=members,
                  least=self._attempt.terms.threshold, have=signatures)  # fmt: skip
        self._files.keep(SIGNATURES, {SIGNATURES: signatures})
        return signatures

    def _reveal(self, commitments: Table, signatures: Table, boxes: dict[int, Table]) -> dict[int, tuple[Table, Table]]:
        """Leg 4: shares of keys, by the place of who gave them."""
        kept = self._files.tables(REVEALS) or {}
        if not kept:
            asked = RevealRequest(plan=self._attempt.plan, round=self._step.number, attempt=self._attempt.attempt,
                                  signatures=pack(signatures), boxes=b"")  # fmt: skip

            def hear(place: int, reply: RevealReply) -> None:
                own, gone = (self._table(data, KEY_BYTES) for data in (reply.own, reply.gone))
                if not set(own) <= set(commitments) or not set(gone).isdisjoint(commitments):
                    raise MessageRefused("the shares are not those of this set")
                kept[f"own {place}"], kept[f"gone {place}"] = own, gone

            def question(name: str) -> RevealRequest:
                return replace(asked, boxes=_for(self._members.place(name), boxes, commitments))

            signers = [self._members.names[place] for place in signatures]
            self._leg("shares of keys", RevealReply, question, hear, among=signers,
                      least=2 * self._attempt.terms.threshold, have=kept)  # fmt: skip
            self._files.keep(REVEALS, kept)
        who = [int(key.removeprefix("own ")) for key in kept if key.startswith("own ")]
        return {place: (kept[f"own {place}"], kept[f"gone {place}"]) for place in who}

    def _leg(
        self,
        what: str,
        kind: type[_Heard],
        question: Callable[[str], Question],
        take: Callable[[int, _Heard], None],
        *,
        among: Collection[str],
        least: int,
        have: Collection[object],
        book: KeyBook | None = None,
    ) -> None:
        """Ask some hospitals of the roster and hear each alone; returns once `have` has grown to `least`, or raises."""

        def hear(name: str, answer: Answer) -> str:
            return self._heard(name, answer, kind, take)

        asking = Asking(self._exchange, self._roster, what=f"round {self._step.number}, {what}", question=question,
                        hear=hear, whom=lambda name: name in among)  # fmt: skip
        for _ in range(1 + self._study.plan.aggregation.retries):
            asking.attempt(deadline_s=self._study.plan.aggregation.deadline_s, enough=lambda: len(have) >= least)
            if len(have) >= least:
                self.missing |= asking.missing
                return
        raise self._waits(what, asking, among, book)

    def _heard(self, name: str, answer: Answer, kind: type[_Heard], take: Callable[[int, _Heard], None]) -> str:
        try:
            if kind is TrainReply:
                answer = quarantine.counted(self._study.plan, self._step, name, answer)
            if isinstance(answer, Refused):
                self._reminders.refused(name, answer.reason)
                return answer.reason
            if not isinstance(answer, kind):
                return MALFORMED
            if (answer.site, answer.plan) != (name, self._attempt.plan):
                return OTHER_SITE
            if isinstance(answer, TrainReply):
                self._reminders.counted(name, answer.ledger_head)
            take(self._members.place(name), answer)
        except Quarantined as error:
            log.warning("round %d: the reply of %s is quarantined: %s", self._step.number, name, error)
            return error.reason
        except MessageRefused as error:
            log.warning("round %d: the answer of %s is left out: %s", self._step.number, name, error)
            return MALFORMED
        return ""

    def _waits(self, what: str, asking: Asking, among: Collection[str], book: KeyBook | None) -> SecureSumWaits:
        """The reason, with the name of each hospital that is missing; notes where this attempt cannot be finished."""
        reasons = {name: asking.missing.get(name, AWAY) for name in among if name not in asking.replied}
        outside = set(self._roster.sites.values()) & set(self._members.names)
        others = book is not None and bool(outside - {self._members.names[place] for place in book.places})
        again = bool(_ENDS & set(reasons.values())) or others
        if again:
            self._files.fail()
        self._files.drop(SIGNATURES)  # the next resume asks all members of the set again: each gives the same
        missing = ", ".join(f"{name}: {reason}" for name, reason in sorted(reasons.items()))
        cost = "a new attempt, which each hospital books anew" if again else "this attempt, at no new cost"
        return SecureSumWaits(
            f"study {self._study.plan.name!r}: round {self._step.number} lacks {what} of {missing or 'hospitals'}; a "
            f"sum of fewer than {self._attempt.terms.least} hospitals is not opened, and nothing was. Bring them back, "
            f"then resume: it goes on with {cost}"
        )

    def _table(self, data: bytes, size: int) -> Table:
        return unpack(data, size=size, holders=len(self._members.members))


def _for(receiver: int, boxes: dict[int, Table], senders: Collection[int]) -> bytes:
    """The boxes that some hospitals have sealed for one, by sender."""
    return pack({sender: boxes[sender][receiver] for sender in senders if sender != receiver})
