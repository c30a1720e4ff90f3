"""A PACS asked over DICOMweb: QIDO-RS names the studies and their objects, WADO-RS brings them one by one."""

import contextlib
import ipaddress
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import requests
from dicomweb_client import DICOMwebClient
from pydicom.datadict import tag_for_keyword
from requests.auth import AuthBase
from urllib3.exceptions import HTTPError as Urllib3Error

from client.pacs.bounded_http import BoundedAdapter
from client.pacs.multipart import only_object
from client.pacs.study import (
    MIB,
    AnnouncedInstance,
    AnnouncedStudy,
    Inbox,
    PacsAnswerInvalid,
    PacsOverCap,
    PacsRefused,
    PacsUnreachable,
    PullLimits,
    StudyQuery,
    checked_uid,
    first_value,
)

_PAGE = 200
_LIST_BYTES = 64 * MIB  # one page of 200 studies with all default attributes takes some 200 KiB
_ENVELOPE_BYTES = MIB  # what a multipart message may add to the object in it
_WHOLE, _PARTIAL = 200, 206
_OBJECT = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
"""The whole DICOM object, in the form in which the PACS keeps it."""
_WORTH_ANOTHER_TRY = (408, 429, 500, 502, 503, 504)
_STUDY_KEYWORDS = (
    "StudyInstanceUID",
    "NumberOfStudyRelatedInstances",
    "ModalitiesInStudy",
    "StudyDate",
    "PatientID",
)
_INSTANCE_KEYWORDS = ("SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")


def checked_url(url: str, *, insecure: bool = False) -> str:
    """Return the address of a DICOMweb service without its last slash.

    Raises:
        ValueError: Not http(s), with a user name, a query or a fragment, or unencrypted to another machine
            while `insecure` is not set.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("give the address as https://HOST[:PORT]/PATH")
    if parts.username is not None or parts.password is not None:
        raise ValueError("no user name or password in the address; use --token-file")
    if parts.query or parts.fragment:
        raise ValueError("the address ends with the path of the service; no '?' and no '#'")
    if parts.scheme == "http" and not insecure and not is_loopback(parts.hostname):
        raise ValueError("http:// would send patients' images in the clear; use https://, or say --insecure")
    return url.rstrip("/")


def is_loopback(host: str) -> bool:
    """Say whether a host name or address means this machine; names other than localhost are not looked up."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


class _Bearer(AuthBase):
    """Adds the token to each request; not kept in the session's headers, which others may log."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _Session(requests.Session):
    """A session whose Host header is right: dicomweb-client sets it without the port."""

    def get(self, url: Any, **kwargs: Any) -> requests.Response:  # type: ignore[override]
        kwargs["headers"].pop("Host", None)
        return super().get(url, **kwargs)


class DicomwebPacs:
    """A DICOMweb service as a source of studies; use as a context manager.

    Redirects are not followed (a token and patients' images go where the operator said), and neither `.netrc` nor
    proxies nor certificate bundles are taken from the environment.

    Args:
        url: Address of the service, see `checked_url`.
        limits: Bounds on sizes and times.
        token: Bearer token; empty for none.
        ca: File with the certificates that may vouch for the PACS; None for the public ones.
        certificate: Client certificate and key, PEM files.
        insecure: Allow http:// to another machine.
    """

    def __init__(
        self,
        url: str,
        *,
        limits: PullLimits,
        token: str = "",
        ca: Path | None = None,
        certificate: tuple[Path, Path] | None = None,
        insecure: bool = False,
    ) -> None:
        self._url = checked_url(url, insecure=insecure)
        self._limits = limits
        self._transport = BoundedAdapter()
        self._closed = True
        """Whether the last list came to an end of its own: an empty page, no repetition."""
        self._session = _Session()
        self._session.trust_env = False
        self._session.max_redirects = 0
        self._session.verify = str(ca) if ca else True
        self._session.cert = (str(certificate[0]), str(certificate[1])) if certificate else None
        self._session.auth = _Bearer(token) if token else None
        self._session.mount("http://", self._transport)
        self._session.mount("https://", self._transport)
        self._session.headers["Accept-Encoding"] = "identity"
        for name in ("dicomweb_client", "urllib3", "retrying"):  # they log addresses, with UIDs and PatientIDs
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        self._client = DICOMwebClient(self._url, session=self._session, permissive_uid=True, timeout=limits.timeout_s)
        self._client.set_http_retry_params(retry=False)  # client.pacs.job tries again, and knows when to stop

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close()

    def find(self, query: StudyQuery) -> list[AnnouncedStudy]:
        """List the studies that fit the query, each once; raises `PacsError`."""
        answers = self._search(
            lambda offset: self._client.search_for_studies(
                limit=_PAGE, offset=offset, search_filters=query.keys, fields=list(_STUDY_KEYWORDS)
            ),
            keywords=_STUDY_KEYWORDS,
            unique="StudyInstanceUID",
            at_most=self._limits.studies,
        )
        return list(islice((AnnouncedStudy.read(answer) for answer in answers if query.admits(answer)), query.limit))

    def fetch(self, study: AnnouncedStudy, inbox: Inbox) -> None:
        """Announce the study's objects to the inbox, then bring those it does not hold; raises `PacsError`."""
        study_uid = checked_uid(study.uid, what="StudyInstanceUID")
        answers = list(self._instances(study_uid))
        closed = self._closed
        if not all(first_value(answer, "SeriesInstanceUID") for answer in answers):
            answers = list(self._by_series(study_uid))
        instances = [AnnouncedInstance.read(answer) for answer in answers]
        inbox.expect(instances, closed=closed)
        for instance in instances:
            if not inbox.holds(instance.sop):
                inbox.accept(self._object(study_uid, instance))

    def _instances(self, study_uid: str, *, series_uid: str | None = None) -> Iterator[dict[str, tuple[str, ...]]]:
        """List the objects of a study, or of one of its series."""
        return self._search(
            lambda offset: self._client.search_for_instances(study_uid, series_uid, limit=_PAGE, offset=offset),
            keywords=_INSTANCE_KEYWORDS,
            unique="SOPInstanceUID",
            at_most=self._limits.study_instances,
        )

    def _by_series(self, study_uid: str) -> Iterator[dict[str, tuple[str, ...]]]:
        """List the objects of a study series by series, for a PACS that names the series of none."""
        every = self._search(
            lambda offset: self._client.search_for_series(study_uid, limit=_PAGE, offset=offset),
            keywords=("SeriesInstanceUID",),
            unique="SeriesInstanceUID",
            at_most=self._limits.study_instances,
        )
        for series in list(every):
            series_uid = checked_uid(first_value(series, "SeriesInstanceUID"), what="SeriesInstanceUID")
            for answer in self._instances(study_uid, series_uid=series_uid):
                yield answer | {"SeriesInstanceUID": (series_uid,)}

    def _search(
        self,
        ask: Callable[[int], list[dict[str, Any]]],
        *,
        keywords: Collection[str],
        unique: str,
        at_most: int,
    ) -> Iterator[dict[str, tuple[str, ...]]]:
        """Ask page by page from the given offset on, and yield each answer once, distinguished by `unique`.

        An answer of status 206 says that the list goes on behind it. A list that ends with one is not whole.
        """
        seen: set[str] = set()
        partial = False
        while True:
            with self._exchange(max_bytes=_LIST_BYTES):
                page = [_by_keyword(item, keywords) for item in ask(len(seen))]
            self._closed = not page
            partial = self._transport.status == _PARTIAL or (partial and not page)
            fresh = {first_value(answer, unique): answer for answer in page}
            fresh = {uid: answer for uid, answer in fresh.items() if uid not in seen}
            if not fresh and (partial or len(page) == _PAGE):
                raise PacsAnswerInvalid("the PACS repeats or breaks off a long list. Narrow the query by date")
            if not fresh:
                return
            seen.update(fresh)
            if len(seen) > at_most:
                raise PacsOverCap(f"the PACS lists more than {at_most} entries. Narrow the query")
            yield from fresh.values()

    def _object(self, study_uid: str, instance: AnnouncedInstance) -> bytes:
        url = f"{self._url}/studies/{study_uid}/series/{instance.series}/instances/{instance.sop}"
        with self._exchange(max_bytes=self._limits.instance_bytes + _ENVELOPE_BYTES):
            # not by the client, which takes the object apart where its boundary occurs in the pixels
            answer = self._session.get(url, headers=dict(_OBJECT), timeout=self._limits.timeout_s, stream=True)
            answer.raise_for_status()
            if answer.status_code != _WHOLE:
                raise PacsAnswerInvalid(
                    f"the PACS answered with HTTP status {answer.status_code} where a whole object was asked for"
                )
            return only_object(answer.headers.get("Content-Type", ""), b"".join(answer.iter_content(2**16)))

    @contextlib.contextmanager
    def _exchange(self, *, max_bytes: int) -> Iterator[None]:
        """Bound one request and its answer, and name what can go wrong without repeating what the PACS said."""
        with self._transport.bounds(seconds=self._limits.exchange_s, max_bytes=max_bytes) as expired:
            try:
                yield
            except requests.HTTPError as error:
                raise _refusal(error.response) from error
            except requests.TooManyRedirects as error:
                raise PacsRefused("the PACS redirects to another address. Give the final one") from error
            except requests.exceptions.SSLError as error:
                raise PacsRefused(
                    "the PACS's certificate is not trusted, or it wants one. Give --ca with the hospital's CA file"
                ) from error
            except (requests.exceptions.InvalidJSONError, *_MALFORMED) as error:
                raise _cut_off(expired.is_set(), self._limits) or PacsAnswerInvalid(
                    f"the PACS sent an answer that is not well-formed DICOMweb ({type(error).__name__})"
                ) from error
            except (requests.RequestException, Urllib3Error, OSError) as error:
                raise _cut_off(expired.is_set(), self._limits) or PacsUnreachable(
                    f"the connection to the PACS failed ({type(error).__name__})"
                ) from error
            finally:
                self._transport.finish()
        if expired.is_set():
            raise PacsUnreachable(f"the PACS took more than {self._limits.exchange_s:g} s for one answer")


_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)


def _cut_off(expired: bool, limits: PullLimits) -> PacsUnreachable | None:
    return PacsUnreachable(f"the PACS took more than {limits.exchange_s:g} s for one answer") if expired else None


def _refusal(response: requests.Response | None) -> PacsRefused | PacsUnreachable:
    status = 0 if response is None else response.status_code
    if status in _WORTH_ANOTHER_TRY:
        return PacsUnreachable(f"the PACS answered with HTTP status {status}")
    if status in (401, 403):
        return PacsRefused(f"the PACS answered with HTTP status {status}. Check the token in --token-file")
    return PacsRefused(f"the PACS answered with HTTP status {status}. Check the address given with --dicomweb")


def _by_keyword(item: Mapping[str, Any], keywords: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Take the values of `keywords` out of the DICOM JSON model (PS3.18 annex F), as text."""
    answer = {}
    for keyword in keywords:
        element = item.get(f"{tag_for_keyword(keyword):08X}") or {}
        answer[keyword] = tuple(str(value) for value in element.get("Value") or ())
    return answer
