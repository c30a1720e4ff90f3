"""Names the installed ClientApp for Flower; an assignment, because Flower's check does not see a bare re-export."""

import client.app

app = client.app.app
