"""What a test of maitred, or of a store kept elsewhere, needs: contract suites and wrappers."""
