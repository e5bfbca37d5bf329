"""What every server with a page shares: who may call it, what it reads, how it refuses, and its life."""
