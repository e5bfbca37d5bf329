"""What the easyrlhf command offers beside the training stages."""
