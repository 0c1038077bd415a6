"""One circuit: may I go, has it failed enough, how often did it fail."""
