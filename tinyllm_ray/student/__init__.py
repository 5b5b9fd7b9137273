"""The student: model, loss, training, checkpoints and evaluation."""
