"""The commands: each parses flags into a config and calls one function of the library."""
