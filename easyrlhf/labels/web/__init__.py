"""The page on which people label, and the organiser's page."""
