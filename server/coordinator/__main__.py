"""The gateway as a process of its own, a child of `server serve`: `python -P -m server.coordinator HOME`."""

import sys

from server.gateway.gateway import main

if __name__ == "__main__":
    main(sys.argv[1:])
