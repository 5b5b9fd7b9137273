"""The embedded closed world: questions, facts and tiny models made on the spot, so that the demo needs no hub."""
