"""A learned router: which teacher is likely to answer a question rightly, from the teachers' own answers."""
