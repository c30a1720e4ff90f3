"""What a machine without internet needs, and a whole deployment on one machine for tests."""
