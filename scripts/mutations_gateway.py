"""Guards of what one site may take of the gateway, and of what its operator is told: how to take each out."""

from mutation import guard

_SHARES = ("tests/server/test_coordinator_shares.py",)
_HOME = ("tests/server/test_coordinator_home.py",)
_VERSIONS, _GATEWAY = ("tests/common/test_flower_version.py",), ("tests/server/test_coordinator_gateway.py",)
_ADDRESSES = ("tests/common/test_addresses.py",)
_CLI = ("tests/server/test_coordinator_cli.py",)
_MOVE = ("tests/client/test_daemon_move.py",)
_SUPEREXEC = ("tests/server/test_coordinator_superexec.py",)


_G, _S, _R = "server/gateway/gateway.py", "server/gateway/shares.py", "server/gateway/relay.py"
_C, _SH, _X = "server/gateway/connection.py", "server/coordinator/home.py", "server/coordinator/superexec.py"
_V = "server/coordinator/serve.py"

GATEWAY = [
    guard("shares: a site may hold any number of connections", _S,
          "return _take(self._connections, site, CONNECTIONS)", "return True", _SHARES, at="Shares.connect"),
    guard("shares: a connection that ended still counts", _C, "            self._leave()\n", "", _SHARES,
          at="GuardedConnection.connection_lost"),
    guard("shares: a site may have any number of requests under way", _G,
          "if not self._shares.begin(admitted.site):", "if False:", _SHARES, at="Gateway.__call__"),
    guard("shares: an answer that is not read yet does not count", _G,
          "            answer = await self._forward(request, admitted.site)\n",
          "            answer = await self._forward(request, admitted.site)\n"
          "            self._shares.end(admitted.site)\n", _SHARES, at="Gateway.__call__"),
    guard("shares: a site may ask as often as it likes", "common/host/rate.py",
          "return max(0.0, -self._tokens / self._per_s)", "return 0.0", _SHARES, at="Rate.take"),
    guard("runner: a coordinator may say hello as often as it likes", "client/daemon/runner.py",
          "            time.sleep(self._greetings.take())", "            pass",
          ("tests/client/test_daemon_runner.py",), at="Runner._pace"),
    guard("relay: an answer may wait for its reader for ever", _R,
          "            async with asyncio.timeout(PAUSE_S):  # it waits",
          "            async with asyncio.timeout(None):  # it waits", _SHARES, at="Relay._send"),
    guard("relay: an answer goes on after its reader left", _R,
          "            if await self._request.is_disconnected():", "            if False:", _SHARES, at="Relay._send"),
    guard("gateway: a flood of refusals fills the log", _S,
          "if now - self._said.get((reason, site), -_SAY_EVERY_S) >= _SAY_EVERY_S:", "if True:", _SHARES,
          at="Shares.say"),
    guard("address: the last colon of a bare IPv6 address stands before a port", "common/wire/addresses.py",
          '    if text.count(":") > 1:', "    if False:", (*_ADDRESSES, *_HOME), at="_parts"),
    guard("listen: every address is every IPv6 address", "server/gateway/listening.py",
          "dualstack_ipv6=True", "dualstack_ipv6=False", _HOME, at="listeners"),
    guard("init: what a failed call made stays", _SH,
          "        shutil.rmtree(draft, ignore_errors=True)\n", "", _HOME, at="_draft"),
    guard("init: what another init made meanwhile is taken for its own", _SH,
          "        if any(path != draft for path in root.iterdir()):", "        if False:", _HOME, at="_draft"),
    guard("init: names are looked at after the authority was made", _SH,
          "        for name in self.names:\n            check_host(name)\n", "", _HOME, at="Settings.__post_init__"),
    guard("files: a place that cannot be written is found out at the end", "common/host/files.py",
          "    if path.is_dir() or not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):",
          "    if False:", _CLI, at="require_writable"),
    guard("invite: the authority is looked for after the older invite has ended", "server/coordinator/invitations.py",
          '    ca = authority.load(home.root / "ca").certificate\n    with home.alone():',
          '    with home.alone():\n        ca = pki.load_certificate(home.ca_certificate)', _CLI, at="invite"),
    guard("prepare: a refused study leaves its folder", "server/coordinator/studies.py",
          "        if fresh:", "        if False:", _CLI, at="prepare"),
    guard("renewal: a new certificate waits for a restart", "server/gateway/tls.py",
          "        try:\n            _load(home, context)", "        try:\n            pass", _HOME, at="keep_fresh"),
    guard("renewal: the SuperLink goes on with the old certificate", _V,
          '    if "superlink" in made:', "    if False:", _HOME, at="renew"),
    guard("health: the end of a site's certificate is not told", _V,
          "if days < RENEW_DAYS]", "if days < 0]", _HOME, at="certificate_end"),
    guard("health: advice makes a daemon ill", "common/host/health.py",
          "ill = any(self._reasons[name] for name in self._needed)", "ill = any(self._reasons.values())",
          ("tests/common/test_health.py",), at="HealthServer._show"),
    guard("site: the end of its certificate is not told", "client/daemon/checks.py",
          "    if days >= EXPIRY_DAYS:", "    if days >= 0:", _MOVE, at="certificate_end"),
    guard("site: a name without an address is a firewall", "client/daemon/forwarder.py",
          "        if isinstance(cause, socket.gaierror):", "        if False:", _MOVE, at="why"),
    guard("move: a site follows whoever answers", "client/daemon/move.py",
          "    if not unasked:", "    if False:", _MOVE, at="move"),
    guard("move: a server.toml of another layout is written over", "server/coordinator/move.py",
          "    if settings is None or any(", "    if False and any(", _HOME, at="move"),
    guard("superexec: nobody speaks for a process that loads", _X,
          "            if not self._beat(token):", "            if token:", _SUPEREXEC, at="Processes._speak_for"),
    guard("superexec: a task that comes back has two processes", _X,
          "            before.kill()\n            before.wait()\n", "", _SUPEREXEC, at="Processes.Popen"),
    guard("superexec: a ServerApp outlives it", _X, "launch.bound(", "list(", _SUPEREXEC, at="Processes.Popen"),
    guard("superexec: a process that hangs is spoken for for ever", _X,
          "        while time.monotonic() < end:", "        while True:", _SUPEREXEC, at="Processes._speak_for"),
    guard("versions: any two are taken to speak with each other", "common/wire/flower_version.py",
          "    return len(pair) == 2 and pair <= TOGETHER", "    return len(pair) == 2", _VERSIONS, at="tried"),
    guard("versions: a site of any minor passes", _G,
          "        if not self._peers.heard(admitted.site, request.headers):",
          "        if self._peers.heard(admitted.site, request.headers) is None:", _GATEWAY, at="Gateway._admit"),
    guard("versions: what a site was tried with is not heard", "server/gateway/peers.py",
          " or pair <= theirs", "", _GATEWAY, at="Peers.heard"),
    guard("versions: what a site says is shown as it comes", "common/wire/flower_version.py",
          'return text if re.fullmatch(r"[0-9A-Za-z.+-]{1,30}", text) else ""', "return text", _VERSIONS, at="shown"),
    guard("versions: a hospital is not told that its Flower is refused", "client/daemon/checks.py",
          '    if link.get("status") != flower_version.REFUSED:', "    if True:", _MOVE, at="flower"),
    guard("doctor: a database of a newer Flower is given to an older one", "deploy/doctor/database.py",
          "    if form and known and not form <= known:", "    if False:", _HOME, at="database"),
]  # fmt: skip
