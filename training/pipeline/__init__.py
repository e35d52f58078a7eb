"""A build from end to end: its stages, and searches and studies over builds."""
