"""The hospital's side: admission of scans, policy, ledger, private training, the egress gate. No `server` here."""
