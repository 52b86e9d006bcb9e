"""Turn a prompt into text with a trained model."""
