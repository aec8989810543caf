"""What a cell leaves on disk, whole and hashed, and how that is checked: manifests, checkpoints, metrics, locks."""
