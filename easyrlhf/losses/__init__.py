"""Pure functions of tensors: losses, KL estimators, advantages and masked means. They import torch alone."""
