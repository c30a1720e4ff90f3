"""Guards of what one site may take of the gateway, and of what its operator is told: how to take each out."""

from mutation import Mutation

_SHARES = ("tests/server/test_coordinator_shares.py",)


def _guard(name: str, file: str, old: str, new: str, tests: tuple[str, ...]) -> Mutation:
    return Mutation(name=name, file=file, old=old, new=new, tests=tests)


_G, _S, _R = "server/coordinator/gateway.py", "server/coordinator/shares.py", "server/coordinator/relay.py"
_C = "server/coordinator/connection.py"

GATEWAY = [
    _guard("shares: a site may hold any number of connections", _S,
           "return _take(self._connections, site, CONNECTIONS)", "return True", _SHARES),
    _guard("shares: a connection that ended still counts", _C, "            self._leave()\n", "", _SHARES),
    _guard("shares: a site may have any number of requests under way", _G,
           "if not self._shares.begin(admitted.site):", "if False:", _SHARES),
    _guard("shares: an answer that is not read yet does not count", _G,
           "            answer = await self._forward(request, admitted.site)\n",
           "            answer = await self._forward(request, admitted.site)\n"
           "            self._shares.end(admitted.site)\n", _SHARES),
    _guard("shares: a site may ask as often as it likes", _S,
           "return max(0.0, -bucket.tokens / RATE_PER_S)", "return 0.0", _SHARES),
    _guard("relay: an answer may wait for its reader for ever", _R,
           "            async with asyncio.timeout(PAUSE_S):  # it waits",
           "            async with asyncio.timeout(None):  # it waits", _SHARES),
    _guard("relay: an answer goes on after its reader left", _R,
           "            if await self._request.is_disconnected():", "            if False:", _SHARES),
    _guard("gateway: a flood of refusals fills the log", _S,
           "if now - self._said.get((reason, site), -_SAY_EVERY_S) >= _SAY_EVERY_S:", "if True:", _SHARES),
]  # fmt: skip
