"""Guards of the coordinator, its gateway and enrolment: how to take each out."""

from mutation import Mutation

_GATEWAY = ("tests/server/test_coordinator_gateway.py",)
_ENROLMENT = ("tests/server/test_coordinator_enrolment.py", "tests/common/test_enrolment.py")
_PKI = ("tests/common/test_pki.py",)
_FILES = ("tests/common/test_files.py",)
_SERVE = ("tests/server/test_coordinator_serve.py",)


def _guard(name: str, file: str, old: str, new: str, tests: tuple[str, ...]) -> Mutation:
    return Mutation(name=name, file=file, old=old, new=new, tests=tests)


_G, _I, _H = "server/gateway/gateway.py", "server/coordinator/invitations.py", "server/coordinator/home.py"
_F = "common/host/files.py"

DEPLOYMENT = [
    _guard("gateway: any path is forwarded", _G,
           'if request.method != "POST" or request.scope["raw_path"] not in PATHS', "if False", _GATEWAY),
    _guard("gateway: paths are compared after decoding", _G,
           'request.scope["raw_path"] not in PATHS', "request.url.path.encode() not in PATHS", _GATEWAY),
    _guard("gateway: a node may register itself", _G,
           '"activate-node", "deactivate-node"', '"register-node", "activate-node", "deactivate-node"', _GATEWAY),
    _guard("gateway: TLS asks for no certificate", "server/gateway/tls.py",
           "context.verify_mode = ssl.CERT_REQUIRED", "context.verify_mode = ssl.CERT_OPTIONAL", _GATEWAY),
    _guard("gateway: TLS does not look at the revocation list", "server/gateway/tls.py",
           "context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF", "pass", _GATEWAY),
    _guard("gateway: a node key is not compared with the certificate", _G,
           "if _claimed_key(request) != admitted.node_key:", "if False:", _GATEWAY),
    _guard("gateway: an announced body may be of any size", _G,
           "and int(size) > self._limit:", "and False:", _GATEWAY),
    _guard("gateway: an unannounced body may be of any size", _G,
           "if (size := size + len(part)) > self._limit:", "if False:", _GATEWAY),
    _guard("gateway: a body may stop in the middle", _G,
           "async with asyncio.timeout(PAUSE_S):", "async with asyncio.timeout(None):", _GATEWAY),
    _guard("gateway: headers may trickle in", "server/gateway/connection.py",
           "self._deadline = self.loop.call_later(HEADER_S, self.transport.abort)", "pass", _GATEWAY),
    _guard("gateway: a record that changed is not read again", "server/gateway/admission.py",
           "if changed != self._seen or now - self._read_at > _FRESH_S:", "if self._seen < 0:", _GATEWAY),
    _guard("enrolment: a revoked site is heard", _I,
           'if node is None or node.state == "revoked":', "if node is None:", _ENROLMENT),
    _guard("enrolment: an invite works twice", _I, 'if not node.token:', "if False:", _ENROLMENT),
    _guard("enrolment: an invite never expires", _I,
           "if _now() > datetime.datetime.fromisoformat(node.token_expires):", "if False:", _ENROLMENT),
    _guard("enrolment: no proof is asked for", _I, "    request.require_proof(node.token)", "    pass", _ENROLMENT),
    _guard("enrolment: a renewal needs no signature", _I,
           "    request.require_signature(node.certificates[0])", "    pass", _ENROLMENT),
    _guard("enrolment: a renewal may change the node key", _I,
           "if pki.openssh(pki.read_openssh(request.node_key)) != node.node_key:", "if False:", _ENROLMENT),
    _guard("enrolment: a revoked node key comes back", _I,
           "if key_line in node.retired_keys:", "if False:", _ENROLMENT),
    _guard("enrolment: two sites share a node key", _I,
           "if other.site != node.site and key_line in (other.node_key, *other.retired_keys):", "if False:",
           _ENROLMENT),
    _guard("enrolment: a proof does not cover the certificate request", "common/wire/enrolment.py",
           'if key not in ("proof", "signature")}', 'if key not in ("proof", "signature", "csr")}', _ENROLMENT),
    _guard("pki: a request needs no signature of its own key", "common/wire/pki.py",
           "if not request.is_signature_valid:", "if False:", _ENROLMENT),
    _guard("pki: a key file may be read by others", "common/wire/pki.py",
           "if path.stat().st_mode & 0o077:", "if False:", _PKI),
    _guard("pki: a secret is written for everybody", "common/wire/pki.py",
           "write_atomically(path, text, mode=PRIVATE)", "write_atomically(path, text, mode=PUBLIC)", _PKI),
    _guard("files: private is what others can read", _F, "PRIVATE, PUBLIC = 0o600,", "PRIVATE, PUBLIC = 0o640,",
           (*_FILES, *_PKI, *_ENROLMENT)),
    _guard("files: a draft can be read by all until its mode is set", _F,
           "flags, 0o666 if mode is None else mode)", "flags, 0o666)", _FILES),
    _guard("files: the umask has its way with a mode that was said", _F,
           "os.fchmod(file.fileno(), mode)", "pass", _FILES),
    _guard("files: a folder for a secret is open to all", _F, "0o777 if mode is None else 0o700", "0o777",
           (*_FILES, *_PKI)),
    _guard("files: a draft may be somebody's link", _F, "os.O_EXCL | ", "", _FILES),
    _guard("files: a draft gets its name before its bytes are on disk", _F,
           "        yield file\n        sync(file)\n", "        yield file\n", _FILES),
    _guard("files: a rename may be lost in a power cut", _F,
           "        draft.replace(path)\n    sync_folder(path.parent)\n", "        draft.replace(path)\n", _FILES),
    _guard("files: the second writer of a key wins", _F,
           "path.hardlink_to(draft)", "draft.replace(path)", _FILES),
    _guard("files: writers share a draft", _F, "{secrets.token_hex(8)}", "{os.getpid()}", _FILES),
    _guard("cache: a killed ingest's pointer draft stays", "client/admission/cache_writer.py",
           'folder.glob(f".*{DRAFT}")', "()", ("tests/client/test_admission_ingest.py",)),
    _guard("pki: an expired certificate is good", "common/wire/pki.py",
           "if not certificate.not_valid_before_utc <= _now() <= certificate.not_valid_after_utc:", "if False:", _PKI),
    _guard("authority: a second init makes it anew", _H,
           "if root.exists() and (not root.is_dir() or any(root.iterdir())):", "if False:",
           ("tests/server/test_coordinator_home.py",)),
    _guard("superlink: it listens everywhere", "server/coordinator/serve.py",
           '"--host", "127.0.0.1"', '"--host", "0.0.0.0"', _GATEWAY),
    _guard("steward: a revoked node key stays registered", "server/coordinator/steward.py",
           "link.unregister(registered[key].node_id)", "pass", _SERVE),
    _guard("steward: a study that waits for a person is started again", "server/study/progress.py",
           'where.state in ("prepared", "interrupted")', 'where.state in ("prepared", "interrupted", "paused")',
           _SERVE),
]  # fmt: skip
