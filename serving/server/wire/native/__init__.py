"""A wire on libnghttp2 (the wheel ngh2), in our own event loop. Only this room imports it."""
