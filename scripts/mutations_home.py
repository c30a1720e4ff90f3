"""Guards of a hospital's home: its place, its copies, its owner, its modes, its disk; how to take each out."""

from mutation import Mutation

_PLACE, _OWNER = ("tests/client/test_place.py",), ("tests/client/test_owner.py",)
_MODES, _DISK = ("tests/client/test_modes.py",), ("tests/common/test_disk.py",)
_HEADS, _RUNS = ("tests/server/test_heads.py",), ("tests/server/test_runs.py",)
_TWINS = ("tests/server/test_coordinator_twins.py",)
_FORWARDER, _COLLECTION = ("tests/client/test_daemon_forwarder.py",), ("tests/server/test_collection.py",)


def _guard(name: str, file: str, old: str, new: str, tests: tuple[str, ...]) -> Mutation:
    return Mutation(name=name, file=file, old=old, new=new, tests=tests)


_P, _M, _T, _N = "client/place.py", "client/ledger_merge.py", "server/coordinator/twins.py", "server/heads.py"
_O, _D, _S = "common/owner.py", "common/disk.py", "client/ledger_store.py"

HOME = [
    _guard("place: a copy trains", "client/hospital.py", "        place.require(site.home)", "        pass", _PLACE),
    _guard("place: a copy on a mounted snapshot is the home", _P,
           "return self.device == now.device if self.boot and self.boot == now.boot else self.machine == now.machine",
           "return self.machine == now.machine", _PLACE),
    _guard("place: a home on another machine is the home", _P, "else self.machine == now.machine", "else True", _PLACE),
    _guard("place: another folder is the home", _P,
           "if (self.inode, self.anchor) != (now.inode, now.anchor):", "if False:", _PLACE),
    _guard("place: serve does not ask", "client/daemon/serve.py",
           "        place.require(home.home)\n        private", "        private", _PLACE),
    _guard("merge: what the other copy booked is left out", _M, 'self._add(row, note=f"copy:{row.hash}")', "pass",
           _PLACE),
    _guard("merge: a withdrawal of the other copy is left out", _M,
           'elif row.kind == "withdraw" and row.note not in self._withdrawn:', "elif False:", _PLACE),
    _guard("merge: a booking of the other copy counts as this request's", _M, 'note=f"copy:{row.hash}"',
           "note=row.note", _PLACE),
    _guard("merge: of any ledger", _M, "if ours and theirs and not common:", "if False:", _PLACE),
    _guard("merge: of a home with another secret", "client/adopt.py",
           'if not (draft / "secret.key").exists() or site_secret(draft) != site_secret(home):', "if False:", _PLACE),
    _guard("merge: of a home that is served", "client/adopt.py",
           'if is_held(other / "daemon" / "serve.lock"):', "if False:", _PLACE),
    _guard("merge: a smaller delta of the other copy is forgotten", "client/adopt.py",
           "        _note_left(home, approval, by=by)", "        pass", _PLACE),
    _guard("heads: each study remembers its own alone", _N,
           "if study != self.study.name]\n            newest = list(record.heads.values())[-1]",
           'if study == self.study.name]\n            newest = record.heads.get(self.study.name, "")', _HEADS),
    _guard("heads: the newest alone is sent", _N,
           "return others[turn // 2 % len(others)] if turn % 2 and others else newest", "return newest", _HEADS),
    _guard("heads: a head that was refused is not asked for again", _N,
           "record.refused[self.study.name] = sent", "pass", _HEADS),
    _guard("heads: another home is asked for the old one's", _N,
           'if known.verdict_key not in ("", key):', "if False:", _HEADS),
    _guard("twins: a run that comes back is passed", _T, "if run in heard.before:", "if False:", _TWINS),
    _guard("twins: a request that comes twice is passed", _T, "if request in heard.requests:", "if False:", _TWINS),
    _guard("twins: it is forgotten when the gateway starts again", _T, "self._known = read(folder)", "self._known = {}",
           _TWINS),
    _guard("twins: the gateway does not ask", "server/coordinator/gateway.py",
           "if self._twins.refuses(admitted, request.headers.get(HEADER, \"\")):", "if False:", _TWINS),
    _guard("twins: the forwarder does not number its requests", "client/daemon/forwarder.py",
           '{next(self._requests)}"', '0"', _FORWARDER),
    _guard("owner: another user may work in a home", _O, "if owner != os.geteuid():", "if False:", _OWNER),
    _guard("owner: a ledger in another's home is opened", _S, "        require_owner(path.parent)\n", "", _OWNER),
    _guard("health: it does not write", "client/daemon/checks.py",
           "            write_atomically(probe, _PROBE_BYTES, mode=PRIVATE)\n            probe.unlink()\n", "", _OWNER),
    _guard("health: it does not look at the ledger's rights", "client/daemon/checks.py",
           "                if file.exists():  # opened", "                if False:  # opened", _OWNER),
    _guard("modes: the ledger takes the umask's", _S,
           "os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE))", "os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))",
           _MODES),
    _guard("modes: a ledger that lies open stays so", _S, "                keep_private(file)\n",
           "                pass\n", _MODES),
    _guard("modes: the egress log takes the umask's", "client/egress_log.py",
           "os.O_CREAT | os.O_CLOEXEC, PRIVATE)", "os.O_CREAT | os.O_CLOEXEC, 0o644)", _MODES),
    _guard("modes: a reply in the spool takes the umask's", "client/spool.py", "metadata=metadata, mode=PRIVATE)",
           "metadata=metadata)", _MODES),
    _guard("modes: a folder above a private one takes the umask's", "common/files.py",
           "        _make_folder(folder.parent, mode)\n        folder.mkdir(exist_ok=True, mode=mode)",
           "        folder.mkdir(parents=True, exist_ok=True, mode=mode)", _MODES),
    _guard("modes: a home that was there before stays open", "client/site_file.py", "        keep_private(home)\n", "",
           _MODES),
    _guard("modes: what lies open in a home is not closed", "client/private.py", "            keep_private(path)\n",
           "            pass\n", _MODES),
    _guard("disk: whatever SQLite says is damage", _S,
           "raise (sqlite_refusal(error, self._path) or self._corrupt(str(error))) from error",
           "raise self._corrupt(str(error)) from error", _DISK),
    _guard("disk: damage is a passing trouble", _D, "    if primary in _DAMAGED:\n        return None\n", "", _DISK),
    _guard("disk: a paid reply that may not be read is paid again", "client/spool.py", "    if path.exists():",
           "    if False:", _DISK),
    _guard("disk: a site with a full disk is not asked again", "server/asking.py", "if reason in _PASSING and",
           "if False and", _COLLECTION),
    _guard("disk: a full one at the coordinator is no state", "server/progress.py",
           "            _pause(folder, refused)\n", "", _RUNS),
    _guard("disk: there is no room for the reason", "server/progress.py",
           "        (folder / _RESERVE).unlink(missing_ok=True)\n        write", "        write", _RUNS),
    _guard("clocks: a stamp of the future is recent", "client/daemon/checks.py",
           'if up["registered"] and 0 <= clocks', 'if up["registered"] and -1e9 <= clocks', _FORWARDER),
    _guard("clocks: a stamp of another boot is recent", "client/daemon/checks.py",
           'if link.get("boot") != clocks.boot():', "if False:", _FORWARDER),
    _guard("clocks: the newest run is the one with the latest stamp", "server/runs.py",
           "return sorted(runs, key=key, reverse=True)", "return list(runs)", _RUNS),
    _guard("approval: a name means a plan that was left, too", "client/approval.py",
           'meant = [a for a in meant if a.state != "left"] or meant', "pass", _OWNER),
]  # fmt: skip
