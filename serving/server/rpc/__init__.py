"""The gRPC services: protobuf in, plain call, protobuf out."""
