"""One engine under both loops: optimiser steps, alone or in many processes, with or without ZeRO."""
