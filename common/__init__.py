"""What both sides of a study share: the plan, the messages, the model, the accounting, the images."""
