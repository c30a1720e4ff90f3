"""What the sites of a study say of their own settings, asked once before the release; none of it holds a release up.

A site of an older version refuses the question, and one that is away does not hear it: of both it is unknown, and the
card says so. Answers are kept in the study's folder, so that a later release by another process has them.
"""

import json
import logging
from pathlib import Path

from common.host.files import write_atomically
from common.wire.messages import TEXT_SEARCHED, UNKNOWN, About, AboutReply
from server.protocol.exchange import Answer, Exchange, Failure
from server.study.study import Study

log = logging.getLogger(__name__)

FILE = "settings.json"
PATIENCE_S = 30.0
"""Longest wait for the answers; the release goes on without those that did not come."""


def ask(study: Study, exchange: Exchange) -> None:
    """Ask every connected site of the model that has not said it yet, and keep what comes."""
    before = load(study.folder)
    known = dict(before)
    nodes = exchange.nodes() if study.joined() - set(known) else {}
    inquiry, heard, end = exchange.inquire(), set[int](), exchange.now() + PATIENCE_S
    asked = inquiry.ask(dict.fromkeys(nodes, About(plan=study.plan.digest)), ttl_s=PATIENCE_S)

    def take(node: int, answer: Answer | Failure) -> None:
        heard.add(node)
        if not isinstance(answer, AboutReply) or answer.plan != study.plan.digest:
            return
        named = nodes[node].name in ("", answer.site) and answer.site in study.joined()
        if named and answer.text_searched in TEXT_SEARCHED:
            known.setdefault(answer.site, answer.text_searched)

    while asked - heard and exchange.now() < end:
        inquiry.look(take)
        exchange.pause()
    if known != before:
        write_atomically(study.folder / FILE, json.dumps(known, sort_keys=True).encode())


def text_searched(study: Study) -> dict[str, str]:
    """Whether each site of the study searched its pictures for text: "yes", "no" or "unknown"."""
    known = load(study.folder)
    return {site: known.get(site, UNKNOWN) for site in study.sites()}


def load(folder: Path) -> dict[str, str]:
    """What sites have said, by site; nothing where it cannot be read, as it is then asked again."""
    try:
        found = json.loads((folder / FILE).read_bytes())
        return {str(site): word for site, word in found.items() if word in TEXT_SEARCHED}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
