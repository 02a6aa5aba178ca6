"""Storage on disk: the workspace, its ledger, and each kind of file in it."""
