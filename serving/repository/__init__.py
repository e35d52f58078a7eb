"""The model repository on disk: its folders, configs and manifests, and their changes."""
