"""One engine under both loops: optimiser steps, checkpoints, resume, and the life of a run in its folder."""
