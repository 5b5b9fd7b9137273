"""Question files, prompts, answers, rationale stores and the student's features."""
