"""The online loop: collect → estimate → update → log (ppo)."""
