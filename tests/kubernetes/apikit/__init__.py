"""A small API server for tests, and what controllers and kubelets would do."""
