"""From image files to pixels, and from answers to masks and scores."""
