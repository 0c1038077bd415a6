"""Many circuits: who is in rotation, and who gets a permit."""
