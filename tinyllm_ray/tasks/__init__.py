"""Kinds of task: how a question and its answer are shown, read, compared and scored; one module for each kind."""
