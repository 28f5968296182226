"""The application: puts settings, store, engine and services together and serves them over gRPC."""
