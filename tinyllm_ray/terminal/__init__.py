"""What a person sees of a command: its result, its progress, and one message where it fails."""
