"""CTC acoustic models, their prunable axes, and the model folder they are saved in."""
