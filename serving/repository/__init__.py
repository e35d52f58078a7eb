"""What lies in the model repository, and what has changed there."""
