"""Names the installed ServerApp for Flower; an assignment, because Flower's check does not see a bare re-export."""

import server.app

app = server.app.app
