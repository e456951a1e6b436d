"""The documentation site: the repository's pages as the builder reads them, its API, and checks of the result."""
