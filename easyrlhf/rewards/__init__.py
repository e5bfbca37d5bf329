"""Sources of reward: trained reward models and python functions."""
