//! What becomes of gateways when the server that they share a quota by, or one of them, fails.
