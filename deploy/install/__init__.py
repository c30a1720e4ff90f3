"""The offline bundle for a machine without internet, and a whole deployment on one machine for tests."""
