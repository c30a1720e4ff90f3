"""The head that each question to a site carries, and what the site's answer means for the next one."""

from server.study.heads import Heads
from server.study.study import Study


class Reminders:
    """Chooses the head to ask a site with, and hears how the site takes it; one for each round or verdict.

    Args:
        study: The study that the sites are asked for.
    """

    def __init__(self, study: Study) -> None:
        self._study, self._heads = study, Heads(study.folder)
        self._sent: dict[str, str] = {}

    def to_send(self, site: str) -> str:
        """The head to ask `site` with now; "" where none is known. A simulation knows those of its own study."""
        self._sent[site] = self._heads.to_send(site) or self._study.last_head(site)
        return self._sent[site]

    def refused(self, site: str, reason: str) -> None:
        """Hear a refusal: a head that `site` does not know is what it is asked with from now on."""
        self._heads.refused(site, sent=self._sent.get(site, ""), reason=reason)

    def counted(self, site: str, head: str) -> None:
        """Remember the head that a reply named; before the reply counts."""
        self._heads.counted(site, head)
