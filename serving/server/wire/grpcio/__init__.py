"""The wire on grpc.aio. That tells nothing of connections and of messages on their way, so that who
sends and reads since when is followed here, and whoever takes too much is cut."""
