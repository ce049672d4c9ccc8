"""Other people's experiment trackers: what a search reports is written there, too."""
