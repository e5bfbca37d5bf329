"""Settings files of other programs as ours: recognise -> draft by rules -> settle with our config class -> write."""
